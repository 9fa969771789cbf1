--TEST--
A handshake or onOpen may suspend: others go on, its own messages wait
--FILE--
<?php
require __DIR__ . '/../inc/ws.php';
$log = new ArrayObject;
$server = serve([
    'handshake' => function (WsRequest $r) use ($log) { $log[] = "handshake $r->path"; return $r->path === '/slow' ? Fiber::suspend('handshake') : true; },
    'open' => function ($c) use ($log) { $log[] = "open $c->path"; if ($c->path === '/slow') { Fiber::suspend('open'); $log[] = "opened $c->path"; } },
    'message' => function ($c, $data) use ($log) { $log[] = "$c->path $data"; },
]);
$slow = new Peer($server->address(), '/slow');
$first = new Fiber(fn () => $server->poll(LIMIT));
var_dump($first->start());
$quick = Peer::open($server, '/quick');
$quick->text('hello');
pump($server, fn () => in_array('/quick hello', (array) $log));
var_dump($slow->poll('head'));
$first->resume(true);
var_dump($first->isTerminated());
echo strtok($slow->head(), "\r"), "\n";
$slow->text('early');
$second = new Fiber(fn () => pump($server, fn () => in_array('opened /slow', (array) $log)));
var_dump($second->start());
for ($i = 0; $i < 5; $i++) { $server->poll(0.01); }
echo implode(' | ', (array) $log), "\n";
$second->resume();
pump($server, fn () => in_array('/slow early', (array) $log));
echo implode(' | ', array_slice((array) $log, 5)), "\n";
?>
--EXPECT--
string(9) "handshake"
string(0) ""
bool(true)
HTTP/1.1 101 Switching Protocols
string(4) "open"
handshake /slow | handshake /quick | open /quick | /quick hello | open /slow
opened /slow | /slow early
