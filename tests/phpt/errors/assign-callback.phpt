--TEST--
Assigning a callback as a property throws an Error that names the method
--FILE--
<?php
require __DIR__ . '/../inc/ws.php';
$server = new WsServer('ws://127.0.0.1:0');
foreach (['onMessage', 'onOpen', 'onHandshake', 'onSomething'] as $name) {
    try { $server->$name = fn () => 1; } catch (Error $e) { echo $e->getMessage(), "\n"; }
}
?>
--EXPECT--
Cannot assign WsServer::$onMessage: set the callback with $server->onMessage(callable)
Cannot assign WsServer::$onOpen: set the callback with $server->onOpen(callable)
Cannot assign WsServer::$onHandshake: set the callback with $server->onHandshake(callable)
Cannot create dynamic property WsServer::$onSomething
