--TEST--
On a closed connection send() returns false and the rest does nothing
--FILE--
<?php
require __DIR__ . '/../inc/ws.php';
$server = serve();
$peer = Peer::open($server);
[$c] = $server->connections();
$peer->close();
pump($server, fn () => count($server) === 0);
var_dump($c->send('x'), $c->isOpen(), $c->bufferedBytes(), $c->rtt(), $c->channels(), $c->stats());
$c->close(); $c->close(4000, 'again'); $c->abort(); $c->ping('x'); $c->subscribe('c'); $c->unsubscribe('c'); $c->bind('u'); $c->trace(true);
var_dump($server->members('c'), $server->isOnline('u'));
?>
--EXPECT--
bool(false)
bool(false)
int(0)
NULL
array(0) {
}
array(0) {
}
array(0) {
}
bool(false)
