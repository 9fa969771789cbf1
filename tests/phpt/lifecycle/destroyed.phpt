--TEST--
When the last reference goes the sockets are closed with 1001, and the port is free
--FILE--
<?php
require __DIR__ . '/../inc/ws.php';
$server = serve();
$address = $server->address();
$peer = Peer::open($server);
[$kept] = $server->connections();
$server = null;
echo $peer->next(), "\n";
var_dump($kept->isOpen(), $kept->send('x'));
$peer->close(1001);
$again = new WsServer($address);
$end = microtime(true) + LIMIT;
while (true) {
    try { $again->start(); break; } catch (WsConnectException $e) { if (microtime(true) > $end) { throw $e; } usleep(1000); }
}
var_dump($again->address() === $address);
?>
--EXPECTF--
close 1001%S
bool(false)
bool(false)
bool(true)
