--TEST--
limits.messageRate pauses reading, or closes with rateAction close
--EXTENSIONS--
lifeline
--FILE--
<?php
require __DIR__ . '/../inc/ws.php';
$got = 0;
$count = function () use (&$got) { $got++; };
$server = serve(['message' => $count], ['limits' => ['messageRate' => 20]]);
$peer = Peer::open($server);
$start = microtime(true);
for ($i = 0; $i < 30; $i++) { $peer->text('x'); }
pump($server, function () use (&$got) { return $got === 30; }, 'the burst, at once or in part');
// Not before: it could come along in the same read.
$peer->text('x');
pump($server, function () use (&$got) { return $got === 31; }, 'all of them');
var_dump(microtime(true) - $start > 0.4); // 20 at once, 10 more at 20 a second
$server = serve(['error' => function () {}], ['limits' => ['messageRate' => 5, 'rateAction' => 'close'], 'logLevel' => 'emergency']);
$peer = Peer::open($server);
for ($i = 0; $i < 30; $i++) { $peer->text('x'); }
echo preg_replace('~^(close \d+).*~', '$1', $peer->next($server)), "\n";
?>
--EXPECT--
bool(true)
close 1013
