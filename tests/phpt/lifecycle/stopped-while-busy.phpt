--TEST--
onClose comes once for each connection before run() returns, though a handler is suspended or has deferred
--FILE--
<?php
require __DIR__ . '/../inc/ws.php';
$held = [];
$log = new ArrayObject;
$server = serve([
    'message' => function ($c, $data, $binary, WsMessage $m) use (&$held, $log) {
        $log[] = "$c->id:$data";
        if ($data === 'defer') { $m->defer(); $held[] = $m; }
        if ($data === 'suspend') { Fiber::suspend(); $log[] = "$c->id:resumed"; }
    },
    'close' => function ($c, $code) use ($log) { $log[] = "$c->id:closed $code"; },
]);
$peers = [Peer::open($server), Peer::open($server), Peer::open($server)];
$peers[0]->text('defer');
pump($server, function () use (&$held) { return count($held) === 1; });
$peers[0]->text('behind');
$peers[1]->text('suspend');
$fiber = new Fiber(fn () => $server->poll(LIMIT));
$fiber->start();
$peers[1]->text('behind');
$peers[2]->text('through');
pump($server, fn () => in_array('3:through', (array) $log));
// What the engine has read by now waits behind the two.
$end = microtime(true) + LIMIT;
while ($server->stats()['messages']['in'] < 5 && microtime(true) < $end) { $server->poll(0.01); }
$server->stop(0.05);
$server->run();
$log = (array) $log;
sort($log);
echo implode("\n", $log), "\n";
$held[0]->ack();
$fiber->resume();
var_dump($fiber->isTerminated(), count($server));
?>
--EXPECT--
1:behind
1:closed 1001
1:defer
2:behind
2:closed 1001
2:suspend
3:closed 1001
3:through
bool(true)
int(0)
