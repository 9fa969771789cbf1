--TEST--
An exception thrown into a suspended handler is that handler's
--FILE--
<?php
require __DIR__ . '/../inc/ws.php';
$server = serve(['message' => function ($c, $data) { if ($data === 'wait') { Fiber::suspend(); } $c->send($data); },
    'error' => function ($e, $c) { echo get_class($e), ' ', $e->getMessage(), ' ', $c->id, "\n"; }]);
$peer = Peer::open($server);
$peer->text('wait');
$fiber = new Fiber(fn () => $server->poll(LIMIT));
$fiber->start();
$fiber->throw(new DomainException('cancelled'));
echo $peer->next($server), "\n";
?>
--EXPECT--
DomainException cancelled 1
close 1011
