--TEST--
ack 'manual': a message is acknowledged by ack() alone; who drops it has failed
--FILE--
<?php
require __DIR__ . '/../inc/lifeline.php';
$kept = [];
$server = serve([
    'message' => function ($c, $data, $binary, WsMessage $m) use (&$kept) {
        echo "message $data\n";
        if ($data !== 'drop') {
            $kept[$data] = $m;
        }
    },
    'error' => fn ($e, $c) => print(get_class($e) . ": {$e->getMessage()}\n"),
    'close' => fn ($c, $code) => print("close $code\n"),
], ['ack' => 'manual', 'redelivery' => ['limit' => 1]]);
$peer = LifelinePeer::open($server);
foreach (['a', 'b', 'c'] as $i => $data) {
    $peer->send('P ' . ($i + 1) . "\n$data");
}
pump($server, function () use (&$kept) { return count($kept) === 3; });
$peer->send('I 1');
$peer->expect('O 1');
// In any order; the mark moves when all before are settled.
$kept['b']->ack();
$peer->send('I 2');
$peer->expect('O 2');
$kept['a']->ack();
$kept['a']->ack();
$peer->expect('A 2');
$kept['c']->reject('no', 3);
echo $peer->read(), "\n";
$peer->send("P 4\ndrop");
do { $frame = $peer->read(); } while (!str_starts_with($frame, 'N'));
echo $frame, "\n";
?>
--EXPECT--
message a
message b
message c
N {"q":3,"code":3,"reason":"no","permanent":true}
message drop
WsException: message box:4 was dropped without ack() or reject()
N {"q":4,"code":0,"reason":"the handler failed 1 times","permanent":true}
