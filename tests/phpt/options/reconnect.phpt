--TEST--
reconnect: the schedule without jitter, its bounds with jitter, maxAttempts, terminal statuses and codes
--EXTENSIONS--
lifeline
--FILE--
<?php
require __DIR__ . '/../inc/client.php';
$nobody = (new RawServer())->url(); // closed by now
/** The delays before each further attempt, and how it ended. */
function delays(string $url, array $reconnect): array
{
    $client = new WsClient($url, ['reconnect' => $reconnect, 'logLevel' => 'emergency']);
    $client->after(LIMIT, fn () => $client->close());
    $delays = [];
    $client->onStateChange(function (WsTransition $t) use (&$delays) {
        if ($t->to === WsState::Reconnecting) { $delays[] = round($t->delay, 3); }
    });
    try {
        $client->run();
    } catch (WsConnectException) {
        return $delays;
    }
    return ['not given up'];
}
$quick = ['base' => 0.01, 'max' => 0.05, 'factor' => 3, 'floor' => 0, 'first' => 0.01, 'maxAttempts' => 5];
$delays = delays($nobody, ['jitter' => 'none'] + $quick);
// The first is always drawn: all clients of a server that dies begin at once.
echo 'none: ', $delays[0] <= 0.01 ? 'up to first, ' : 'too late, ', implode(' ', array_slice($delays, 1)), "\n";
foreach (['full', 'equal', 'decorrelated'] as $jitter) {
    $delays = delays($nobody, ['jitter' => $jitter, 'maxAttempts' => 8] + $quick);
    echo "$jitter: ", count($delays), ' ', max($delays) <= 0.05 && min($delays) >= 0 ? 'within' : 'outside', ' ',
        count(array_unique($delays)) > 1 ? 'spread' : 'even', "\n";
}
echo 'floor: ', min(array_slice(delays($nobody, ['jitter' => 'full', 'floor' => 0.02] + $quick), 1)) >= 0.02 ? 'kept' : 'broken', "\n";

/** What becomes of a client whose peer does $lose. */
function after(callable $lose, array $options): string
{
    $raw = new RawServer();
    $client = new WsClient($raw->url(), ['reconnect' => $options + FAST['reconnect'], 'logLevel' => 'emergency']);
    $state = null;
    $client->onStateChange(function (WsTransition $t) use (&$state) { $state = $t->to; });
    $client->connect();
    $lose($raw);
    try {
        until($client, function () use (&$state) { return $state === WsState::Reconnecting; }, 'the next attempt');
        return $state->value;
    } catch (WsConnectException $e) {
        return "{$state->value} {$e->getCode()}";
    } finally {
        $client->close();
    }
}
$refuse = fn (string $status) => function (RawServer $raw) use ($status) {
    fclose($raw->answer($status, ['Content-Length: 0', 'Connection: close'])[0]);
};
$close = fn (int $code) => function (RawServer $raw) use ($code) {
    [$socket] = $raw->upgrade();
    fwrite($socket, "\x88\x02" . pack('n', $code));
    RawServer::frame($socket);
    fclose($socket);
};
echo '503: ', after($refuse('503 Service Unavailable'), []), ', ', after($refuse('503 Service Unavailable'), ['terminalStatuses' => [503]]), "\n";
echo '403: ', after($refuse('403 Forbidden'), []), ', ', after($refuse('403 Forbidden'), ['terminalStatuses' => [503]]), "\n";
echo '4100: ', after($close(4100), []), ', ', after($close(4100), ['terminalCodes' => [4100]]), "\n";
echo '1002: ', after($close(1002), []), ', ', after($close(1002), ['terminalCodes' => [4100]]), "\n";
// One that is let go at once again and again.
foreach ([0, 3600] as $stable) {
    $server = serve(['open' => fn (WsConnection $c) => $c->close(1001)]);
    $options = ['maxAttempts' => 2, 'stableAfter' => $stable] + FAST['reconnect'];
    $client = new WsClient($server->address(), ['reconnect' => $options, 'logLevel' => 'emergency']);
    $opens = 0;
    $client->onOpen(function () use (&$opens) { $opens++; });
    $client->connect();
    try {
        until($client, function () use (&$opens) { return $opens > 5; }, 'openings');
        echo "stableAfter $stable: goes on\n";
    } catch (WsConnectException) {
        echo "stableAfter $stable: gives up after $opens\n";
    }
    $client->close();
}
--EXPECT--
none: up to first, 0.01 0.03 0.05 0.05
full: 8 within spread
equal: 8 within spread
decorrelated: 8 within spread
floor: kept
503: reconnecting, closed 503
403: closed 403, reconnecting
4100: reconnecting, closed 4100
1002: closed 1002, reconnecting
stableAfter 0: goes on
stableAfter 3600: gives up after 3
