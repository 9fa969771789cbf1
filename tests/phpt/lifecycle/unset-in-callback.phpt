--TEST--
Callbacks may unset, stop and replace everything
--FILE--
<?php
require __DIR__ . '/../inc/ws.php';
$server = new WsServer('ws://127.0.0.1:0');
$server->onMessage(function ($c, $data) use (&$server) {
    $server->onMessage(fn () => 1);
    $server->onOpen(fn () => 1);
    $server->stop(0);
    $server = null;
    unset($c);
    gc_collect_cycles();
    echo "unset $data\n";
});
$server->start();
$address = $server->address();
$peer = Peer::open($server);
$peer->text('x');
$server->run();
var_dump($server);
echo $peer->next(), "\n";
?>
--EXPECTF--
unset x
NULL
close 1001%S
