<?php

declare(strict_types=1);

namespace Lifeline\Loop;

use WsClient;
use WsClientInterface;
use WsServerInterface;
use WsState;

/**
 * A loop of plain stream_select, for scripts that wait for streams of their own as well.
 */
final class Select
{
    /**
     * Serves every WsServer and WsClient of this process, and the streams in $watch, until $until
     * returns true or, without it, until the client given is closed.
     *
     * @param list<array{resource, callable(resource): void}> $watch what to call when a stream is readable
     * @param (callable(): bool)|null $until asked after each round
     * @param float $tick seconds after which $until is asked although nothing happened
     */
    public static function run(
        WsServerInterface|WsClientInterface $endpoint,
        array $watch = [],
        ?callable $until = null,
        float $tick = 1.0,
    ): void {
        $until ??= static fn (): bool => $endpoint instanceof WsClient && $endpoint->state() === WsState::Closed;
        $own = $endpoint->stream();
        do {
            $read = [$own, ...array_column($watch, 0)];
            $write = $except = null;
            // False: a signal came, and its handler may have changed what $until says.
            if (!@stream_select($read, $write, $except, (int) $tick, (int) (fmod($tick, 1) * 1_000_000))) {
                continue;
            }
            foreach ($watch as [$stream, $callback]) {
                if (in_array($stream, $read, true)) {
                    $callback($stream);
                }
            }
            if (in_array($own, $read, true)) {
                $endpoint->tick();
            }
        } while (!$until());
        if ($endpoint instanceof WsClient && $endpoint->state() === WsState::Closed) {
            // What follows the last transition is there at once; then run() returns.
            $endpoint->run();
        }
    }
}
