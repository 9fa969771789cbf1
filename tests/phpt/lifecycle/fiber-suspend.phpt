--TEST--
A handler suspended in a fiber stops only its own connection; what it sent before goes out at once
--FILE--
<?php
require __DIR__ . '/../inc/ws.php';
$log = new ArrayObject;
$server = serve([
    'message' => function ($c, $data) use ($log) {
        $log[] = "in $c->id:$data";
        if ($data === 'wait') { $c->send('before'); $got = Fiber::suspend($c->id); $c->send("resumed $got"); }
        $log[] = "out $c->id:$data";
    },
    'close' => function ($c) use ($log) { $log[] = "close $c->id"; },
]);
$one = Peer::open($server);
$two = Peer::open($server);
$one->text('wait');
$one->text('after');
$fiber = new Fiber(fn () => $server->poll(LIMIT));
var_dump($fiber->start());
echo $one->next(), "\n";
$two->text('other');
pump($server, fn () => in_array('out 2:other', (array) $log));
for ($i = 0; $i < 3; $i++) { $server->poll(0.01); }
echo implode(' | ', (array) $log), "\n";
$fiber->resume('now');
echo $one->next($server), "\n";
$one->close();
pump($server, fn () => in_array('close 1', (array) $log));
echo implode(' | ', array_slice((array) $log, 3)), "\n";
var_dump($fiber->isTerminated());
?>
--EXPECT--
int(1)
text before
in 1:wait | in 2:other | out 2:other
text resumed now
out 1:wait | in 1:after | out 1:after | close 1
bool(true)
