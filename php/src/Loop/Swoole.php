<?php

declare(strict_types=1);

namespace Lifeline\Loop;

use Closure;
use Swoole\Coroutine;
use Swoole\Event;
use WsClient;
use WsClientInterface;
use WsServerInterface;
use WsState;

/**
 * Serves connections inside of Swoole's event loop: `Swoole::attach($server);`
 *
 * Each round of callbacks runs in a coroutine. A handler that suspends stops its own connection only:
 * the next round runs in a coroutine of its own.
 */
final class Swoole
{
    /**
     * One endpoint is enough: whatever is attached serves every WsServer and WsClient of the process.
     *
     * @return Closure(): void detaches; a client detaches by itself when it is closed
     */
    public static function attach(WsServerInterface|WsClientInterface $endpoint): Closure
    {
        $stream = $endpoint->stream();
        $attached = true;
        $detach = static function () use ($stream, &$attached): void {
            if ($attached) {
                $attached = false;
                Event::del($stream);
            }
        };
        Event::add($stream, static function () use ($endpoint, $detach): void {
            Coroutine::create(static function () use ($endpoint, $detach): void {
                $endpoint->tick();
                if ($endpoint instanceof WsClient && $endpoint->state() === WsState::Closed) {
                    // What follows the last transition is there at once; then run() returns.
                    $endpoint->run();
                    $detach();
                }
            });
        });

        return $detach;
    }
}
