--TEST--
WsClient and WsServer on lifeline.v1: nothing is lost and nothing comes twice when the link is cut again and again
--FILE--
<?php
require __DIR__ . '/../inc/ws.php';
$handled = $got = [];
$cuts = 0;
$server = serve([
    'auth' => fn ($r, $token) => ['user' => $token],
    'subscribe' => fn ($c, $channel) => $c->user === 'ann' && $channel === 'news',
    'message' => function (WsConnection $c, $data, $binary, $m) use (&$handled, &$server, &$cuts) {
        $handled[] = $data;
        $c->send("re $data");
        $server->publish('news', "news $data");
        if (++$cuts % 10 === 3) {
            $c->abort();
        }
    },
]);
$client = new WsClient($server->address(), ['reconnect' => ['first' => 0.001, 'floor' => 0.001, 'base' => 0.005, 'max' => 0.01]]);
$client->onToken(fn () => 'ann');
$opened = $resumed = 0;
$gaps = [];
$client->onOpen(function ($c, $again) use (&$opened, &$resumed) { $opened++; $resumed += $again; });
$client->onMessage(function ($c, $data, $b, WsMessage $m) use (&$got) { $got[$m->channel ?? ''][] = $data; });
$client->onGap(function ($g) use (&$gaps) { $gaps[] = $g; });
$client->subscribe('news');
$client->connect();
pump($server, fn () => $server->members('news') !== [], 'the subscription');
for ($n = 1; $n <= 50; $n++) {
    $client->send((string) $n);
}
pump($server, function () use ($client, &$got) {
    return $client->unacknowledged() === 0 && count($got[''] ?? []) >= 50 && count($got['news'] ?? []) >= 50;
}, 'all');
var_dump($handled === array_map('strval', range(1, 50)), $got[''] === array_map(fn ($n) => "re $n", range(1, 50)),
    $got['news'] === array_map(fn ($n) => "news $n", range(1, 50)), $opened >= 2, $resumed === $opened - 1, $gaps);
$stats = $server->stats()['sessions'];
var_dump($stats['count'], $stats['gaps'], $stats['resumed'] === $resumed);
// A clean stop: the client is asked to leave, and comes back to nobody.
$server->stop(2);
pump($server, fn () => count($server) === 0, 'the end');
$client->close();
// The handler holds its own server.
$server = null;
?>
--EXPECT--
bool(true)
bool(true)
bool(true)
bool(true)
bool(true)
array(0) {
}
int(1)
int(0)
bool(true)
