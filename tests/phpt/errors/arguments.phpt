--TEST--
Arguments out of range are ValueErrors that name what is allowed
--FILE--
<?php
require __DIR__ . '/../inc/ws.php';
$server = serve();
$peer = Peer::open($server);
[$c] = $server->connections();
foreach ([
    fn () => $c->close(999), fn () => $c->close(1005), fn () => $c->close(1006), fn () => $c->close(2999), fn () => $c->close(70000),
    fn () => $c->close(1000, str_repeat('x', 124)), fn () => $c->close(1000, "\xff"), fn () => $c->ping(str_repeat('x', 126)),
    fn () => $c->send("\xff"), fn () => $c->subscribe(''), fn () => $c->subscribe("a\nb"), fn () => $c->subscribe(str_repeat('x', 256)),
    fn () => $c->bind(''), fn () => $server->after(-1, fn () => 1), fn () => $server->every(0, fn () => 1), fn () => $server->poll(-1),
    fn () => $server->stop(NAN), fn () => $server->broadcast('x', false, ['y']), fn () => $server->publish('c', "\xff"),
    fn () => $server->disconnectUser('u', 1), fn () => $c->send(), fn () => $c->send([]), fn () => $c->close('x'),
] as $try) {
    try { $try(); echo "accepted\n"; } catch (Throwable $e) { echo get_class($e), ': ', $e->getMessage(), "\n"; }
}
var_dump($c->isOpen());
?>
--EXPECT--
ValueError: WsConnection::close(): Argument #1 ($code) must be a close code that may be sent: 1000-1003, 1007-1014 or 3000-4999, 999 given
ValueError: WsConnection::close(): Argument #1 ($code) must be a close code that may be sent: 1000-1003, 1007-1014 or 3000-4999, 1005 given
ValueError: WsConnection::close(): Argument #1 ($code) must be a close code that may be sent: 1000-1003, 1007-1014 or 3000-4999, 1006 given
ValueError: WsConnection::close(): Argument #1 ($code) must be a close code that may be sent: 1000-1003, 1007-1014 or 3000-4999, 2999 given
ValueError: WsConnection::close(): Argument #1 ($code) must be a close code that may be sent: 1000-1003, 1007-1014 or 3000-4999, 70000 given
ValueError: WsConnection::close(): Argument #2 ($reason) must be at most 123 bytes, 124 given
ValueError: WsConnection::close(): Argument #2 ($reason) must be valid UTF-8
ValueError: WsConnection::ping(): Argument #1 ($payload) must be at most 125 bytes, 126 given
ValueError: WsConnection::send(): Argument #1 ($data) must be valid UTF-8 unless $binary is true
ValueError: WsConnection::subscribe(): Argument #1 ($channel) must be 1 to 255 bytes of UTF-8 without control characters
ValueError: WsConnection::subscribe(): Argument #1 ($channel) must be 1 to 255 bytes of UTF-8 without control characters
ValueError: WsConnection::subscribe(): Argument #1 ($channel) must be 1 to 255 bytes of UTF-8 without control characters
ValueError: WsConnection::bind(): Argument #1 ($user) must not be empty
ValueError: WsServer::after(): Argument #1 ($s) must be between 0 and 100 years, in seconds
ValueError: WsServer::every(): Argument #1 ($s) must be greater than 0
ValueError: WsServer::poll(): Argument #1 ($timeout) must be 0 or more seconds
ValueError: WsServer::stop(): Argument #1 ($drain) must be 0 or more seconds
TypeError: WsServer::broadcast(): Argument #3 ($except) must contain WsConnection objects or their ids only
ValueError: WsServer::publish(): Argument #2 ($data) must be valid UTF-8 unless $binary is true
ValueError: WsServer::disconnectUser(): Argument #2 ($code) must be a close code that may be sent: 1000-1003, 1007-1014 or 3000-4999, 1 given
ArgumentCountError: WsConnection::send() expects at least 1 argument, 0 given
TypeError: WsConnection::send(): Argument #1 ($data) must be of type string, array given
TypeError: WsConnection::close(): Argument #1 ($code) must be of type int, string given
bool(true)
