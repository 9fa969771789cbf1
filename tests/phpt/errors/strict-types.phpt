--TEST--
strict_types of the caller is honoured
--FILE--
<?php
declare(strict_types=1);
require __DIR__ . '/../inc/ws.php';
$server = serve();
$peer = Peer::open($server);
[$c] = $server->connections();
foreach ([fn () => $c->send(12), fn () => $c->send('x', 1), fn () => $c->close('1000'), fn () => $server->poll('0'), fn () => $server->poll(0)] as $try) {
    try { var_dump($try()); } catch (TypeError $e) { echo $e->getMessage(), "\n"; }
}
?>
--EXPECT--
WsConnection::send(): Argument #1 ($data) must be of type string, int given
WsConnection::send(): Argument #2 ($binary) must be of type bool, int given
WsConnection::close(): Argument #1 ($code) must be of type int, string given
WsServer::poll(): Argument #1 ($timeout) must be of type float, string given
int(0)
