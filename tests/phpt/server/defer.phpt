--TEST--
A deferred message holds up its own connection only, until ack() or until it is forgotten
--FILE--
<?php
require __DIR__ . '/../inc/ws.php';
$held = [];
$log = new ArrayObject;
$server = serve([
    'message' => function ($c, $data, $binary, WsMessage $m) use (&$held, $log) {
        $log[] = "$c->id:$data";
        if ($data === 'wait') { $m->defer(); $m->defer(); $held[] = $m; }
        if ($data === 'forget') { $m->defer(); }
    },
    'close' => function ($c) use ($log) { $log[] = "$c->id:closed"; },
]);
$one = Peer::open($server);
$two = Peer::open($server);
$one->text('wait');
$one->text('after');
$one->close();
pump($server, fn () => in_array('1:wait', (array) $log));
$two->text('other');
pump($server, fn () => in_array('2:other', (array) $log));
for ($i = 0; $i < 3; $i++) { $server->poll(0.02); }
echo implode(' ', (array) $log), "\n";
$held[0]->ack();
$held[0]->ack();
pump($server, fn () => in_array('1:closed', (array) $log));
echo implode(' ', (array) $log), "\n";
$two->text('forget');
$two->text('on');
pump($server, fn () => in_array('2:on', (array) $log));
$two->text('wait');
$two->text('last');
pump($server, fn () => in_array('2:wait', (array) $log));
$held = [];
pump($server, fn () => in_array('2:last', (array) $log));
echo implode(' ', array_slice((array) $log, 4)), "\n";
?>
--EXPECT--
1:wait 2:other
1:wait 2:other 1:after 1:closed
2:forget 2:on 2:wait 2:last
