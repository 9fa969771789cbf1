<?php

declare(strict_types=1);

namespace Lifeline\Loop;

use Closure;
use React\EventLoop\Loop;
use React\EventLoop\LoopInterface;
use WsClient;
use WsClientInterface;
use WsServerInterface;
use WsState;

/**
 * Serves connections inside of a ReactPHP loop: `ReactPhp::attach($server);`
 */
final class ReactPhp
{
    /**
     * One endpoint is enough: whatever is attached serves every WsServer and WsClient of the process.
     *
     * @return Closure(): void detaches; a client detaches by itself when it is closed
     */
    public static function attach(WsServerInterface|WsClientInterface $endpoint, ?LoopInterface $loop = null): Closure
    {
        $loop ??= Loop::get();
        $stream = $endpoint->stream();
        $detach = static function () use ($loop, $stream): void {
            $loop->removeReadStream($stream);
        };
        $loop->addReadStream($stream, static function () use ($endpoint, $detach): void {
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
