<?php

declare(strict_types=1);

namespace Lifeline\Loop;

use Closure;
use Revolt\EventLoop;
use WsClient;
use WsClientInterface;
use WsServerInterface;
use WsState;

/**
 * Serves connections inside of a Revolt loop (AMPHP): `Revolt::attach($server);`
 *
 * Revolt runs each callback in a fiber. A handler that suspends stops its own connection only: the
 * loop goes on in another fiber, and polls again.
 */
final class Revolt
{
    /**
     * One endpoint is enough: whatever is attached serves every WsServer and WsClient of the process.
     *
     * @return Closure(): void detaches; a client detaches by itself when it is closed
     */
    public static function attach(WsServerInterface|WsClientInterface $endpoint): Closure
    {
        $stream = $endpoint->stream();
        $id = EventLoop::onReadable($stream, static function (string $id) use ($endpoint): void {
            $endpoint->tick();
            if ($endpoint instanceof WsClient && $endpoint->state() === WsState::Closed) {
                // What follows the last transition is there at once; then run() returns.
                $endpoint->run();
                EventLoop::cancel($id);
            }
        });

        return static function () use ($id): void {
            EventLoop::cancel($id);
        };
    }
}
