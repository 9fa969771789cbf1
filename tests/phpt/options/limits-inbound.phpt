--TEST--
limits.inbound: a connection whose messages nobody handles is read no further; limits.byteRate slows it down
--EXTENSIONS--
lifeline
--FILE--
<?php
require __DIR__ . '/../inc/ws.php';
$held = [];
$seen = 0;
$server = serve(['message' => function ($c, $data, $binary, WsMessage $m) use (&$held, &$seen) { $seen++; $m->defer(); $held[] = $m; }],
    ['limits' => ['inbound' => 10000, 'maxMessage' => 100000]]);
$peer = Peer::open($server);
// More than one read takes: what it brings is counted before the reads rest.
for ($i = 0; $i < 50; $i++) { $peer->text(str_repeat('x', 5000)); }
pump($server, fn () => $server->stats()['connections']['readsPaused'] > 0, 'the pause');
var_dump($server->stats()['messages']['in'] < 50, $seen <= 1);
pump($server, function () use (&$held, &$seen) {
    while ($held) { array_shift($held)->ack(); }
    return $seen === 50;
}, 'the rest');
$got = 0;
$server = serve(['message' => function () use (&$got) { $got++; }], ['limits' => ['byteRate' => 20000]]);
$peer = Peer::open($server);
$start = microtime(true);
foreach ([15000, 15000, 1] as $size) {
    $peer->text(str_repeat('x', $size));
    $before = $got;
    pump($server, function () use (&$got, $before) { return $got > $before; }, 'the message');
}
var_dump(microtime(true) - $start > 0.4); // 20000 at once, 10000 more at 20000 a second
?>
--EXPECT--
bool(true)
bool(true)
bool(true)
