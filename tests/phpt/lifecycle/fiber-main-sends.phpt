--TEST--
While a handler is suspended the main program sends at once
--FILE--
<?php
require __DIR__ . '/../inc/ws.php';
$server = serve(['message' => fn () => Fiber::suspend()]);
$peer = Peer::open($server);
[$c] = $server->connections();
$peer->text('x');
$fiber = new Fiber(fn () => $server->poll(LIMIT));
$fiber->start();
$c->send('from main');
echo $peer->next(), "\n";
$second = new Fiber(function () use ($c) { $c->send('from a fiber'); Fiber::suspend(); });
$second->start();
echo $peer->next(), "\n";
$fiber->resume();
$c->send('after');
echo $peer->next(), "\n";
?>
--EXPECT--
text from main
text from a fiber
text after
