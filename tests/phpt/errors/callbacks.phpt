--TEST--
What is no callback, or of the wrong shape, is refused at the call
--FILE--
<?php
require __DIR__ . '/../inc/ws.php';
$server = new WsServer('ws://127.0.0.1:0');
foreach ([
    fn () => $server->onMessage('no_such_function'),
    fn () => $server->onMessage(12),
    fn () => $server->onMessage([$server, 'nothing']),
    fn () => $server->onMessage(fn ($a, $b, $c, $d, $e) => 1),
    fn () => $server->onHandshake(fn ($a, $b) => 1),
    fn () => $server->on('mesage', fn () => 1),
    fn () => $server->on('message'),
    fn () => $server->onMessage(),
] as $try) {
    try { $try(); echo "accepted\n"; } catch (Throwable $e) { echo get_class($e), ': ', $e->getMessage(), "\n"; }
}
// Fewer, variadic and optional parameters are fine; setters are fluent.
var_dump($server->onMessage(fn () => 1)->onOpen(fn (...$all) => 1)->onClose(fn ($a, $b, $c, $d, $e = 1) => 1)
    ->on('error', 'var_dump')->onDrain('strlen') === $server);
?>
--EXPECT--
TypeError: WsServer::onMessage(): Argument #1 ($callback) must be a valid callback, function "no_such_function" not found or invalid function name
TypeError: WsServer::onMessage(): Argument #1 ($callback) must be a valid callback, no array or string given
TypeError: WsServer::onMessage(): Argument #1 ($callback) must be a valid callback, class WsServer does not have a method "nothing"
TypeError: WsServer::onMessage(): the callback requires 5 arguments, but is passed 4 at most
TypeError: WsServer::onHandshake(): the callback requires 2 arguments, but is passed 1 at most
ValueError: WsServer::on(): Argument #1 ($event) must be one of 'handshake', 'open', 'message', 'close', 'error', 'drain', 'join', 'leave', 'auth', 'subscribe', 'snapshot', 'sessionEnd', 'mesage' given
ArgumentCountError: WsServer::on() expects exactly 2 arguments, 1 given
ArgumentCountError: WsServer::onMessage() expects exactly 1 argument, 0 given
bool(true)
