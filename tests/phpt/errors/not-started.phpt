--TEST--
Methods that need a started server say so; setters of handshake and members come before start()
--FILE--
<?php
require __DIR__ . '/../inc/ws.php';
$server = new WsServer('ws://127.0.0.1:0');
foreach (['poll' => [], 'tick' => [], 'address' => [], 'broadcast' => ['x'], 'publish' => ['c', 'x'], 'sendToUser' => ['u', 'x'],
    'disconnectUser' => ['u'], 'connectionsOf' => ['u'], 'isOnline' => ['u'], 'members' => ['c'], 'channels' => [], 'stats' => []] as $method => $arguments) {
    try { $server->$method(...$arguments); echo "$method worked\n"; } catch (WsException $e) { echo $e->getMessage(), "\n"; }
}
var_dump(count($server), $server->connections(), $server->connection(1));
$server->stop();
$server->start();
foreach (['onHandshake', 'onJoin', 'onLeave'] as $method) {
    try { $server->$method(fn () => true); } catch (WsException $e) { echo $e->getMessage(), "\n"; }
}
$server->start();
$server->onMessage(fn () => 1);
$server->stop(0);
$server->run();
var_dump($server->broadcast('x'), $server->poll(), $server->stats(), $server->isOnline('u'));
?>
--EXPECT--
WsServer::poll() needs a started server: call start() or run() first
WsServer::tick() needs a started server: call start() or run() first
WsServer::address() needs a started server: call start() or run() first
WsServer::broadcast() needs a started server: call start() or run() first
WsServer::publish() needs a started server: call start() or run() first
WsServer::sendToUser() needs a started server: call start() or run() first
WsServer::disconnectUser() needs a started server: call start() or run() first
WsServer::connectionsOf() needs a started server: call start() or run() first
WsServer::isOnline() needs a started server: call start() or run() first
WsServer::members() needs a started server: call start() or run() first
WsServer::channels() needs a started server: call start() or run() first
WsServer::stats() needs a started server: call start() or run() first
int(0)
array(0) {
}
NULL
WsServer::onHandshake() must be called before start()
WsServer::onJoin() must be called before start()
WsServer::onLeave() must be called before start()
int(0)
int(0)
array(0) {
}
bool(false)
