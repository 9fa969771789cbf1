--TEST--
A connection is the same object for its life; its data is ordinary
--FILE--
<?php
require __DIR__ . '/../inc/ws.php';
$server = serve([
    'open' => function ($c) use (&$first) { $first = $c; $c->data = ['n' => 0]; },
    'message' => function ($c) use (&$first) { $c->data['n']++; $c->data['list'][] = 1; var_dump($c === $first); },
    'close' => function ($c) use (&$first) { var_dump($c === $first, $c->data['n'], count($c->data['list'])); },
]);
$peer = Peer::open($server, '/room?x=1', ['Sec-WebSocket-Protocol: none']);
var_dump($server->connection($first->id) === $first, [...$server->connections()] === [$first], count($server));
var_dump($first->path, $first->protocol, $first->resumed, $first->user, str_starts_with($first->remoteAddress, '127.0.0.1:'));
try { $first->id = 5; } catch (Error $e) { echo $e->getMessage(), "\n"; }
try { $first->user = 'x'; } catch (Error $e) { echo $e->getMessage(), "\n"; }
$peer->text('1');
$peer->text('2');
$peer->close();
pump($server, fn () => count($server) === 0);
var_dump($server->connection($first->id), $first->isOpen(), $first->handshake()->path);
?>
--EXPECT--
bool(true)
bool(true)
int(1)
string(5) "/room"
string(0) ""
bool(false)
NULL
bool(true)
Cannot modify readonly property WsConnection::$id
Cannot modify readonly property WsConnection::$user
bool(true)
bool(true)
bool(true)
int(2)
int(2)
NULL
bool(false)
string(5) "/room"
