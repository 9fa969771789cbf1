<?php

declare(strict_types=1);

namespace Lifeline\Loop;

use Closure;
use Workerman\Events\EventInterface;
use Workerman\Worker;
use WsClient;
use WsClientInterface;
use WsServerInterface;
use WsState;

/**
 * Serves connections inside of a Workerman 5 worker: `Workerman::attach($server);` in onWorkerStart,
 * where the server is made too, since Workerman forks before it.
 */
final class Workerman
{
    /**
     * One endpoint is enough: whatever is attached serves every WsServer and WsClient of the process.
     *
     * @return Closure(): void detaches; a client detaches by itself when it is closed
     */
    public static function attach(WsServerInterface|WsClientInterface $endpoint, ?EventInterface $loop = null): Closure
    {
        $loop ??= Worker::getEventLoop();
        $stream = $endpoint->stream();
        $detach = static function () use ($loop, $stream): void {
            $loop->offReadable($stream);
        };
        $loop->onReadable($stream, static function () use ($endpoint, $detach): void {
            $endpoint->tick();
            if ($endpoint instanceof WsClient && $endpoint->state() === WsState::Closed) {
                // What follows the last transition is there at once; then run() returns.
                $endpoint->run();
                $detach();
            }
        });

        return $detach;
    }
}
