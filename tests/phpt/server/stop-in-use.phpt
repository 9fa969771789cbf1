--TEST--
While a server ends, its methods and those of its connections still do nothing in peace
--FILE--
<?php
require __DIR__ . '/../inc/ws.php';
$closed = 0;
$server = new WsServer('ws://127.0.0.1:0');
$server->onError(function (Throwable $e) { echo get_class($e), ': ', $e->getMessage(), "\n"; });
$server->onMessage(function (WsConnection $c) { $c->subscribe('room'); });
$server->onClose(function (WsConnection $c) use ($server, &$closed) {
    $closed++;
    $server->broadcast('left');
    $server->publish('room', 'left');
    $server->sendToUser('someone', 'left');
    $server->disconnectUser('someone');
    $server->members('room'); $server->channels(); $server->connectionsOf('someone'); $server->isOnline('someone'); $server->stats();
    $c->subscribe('room'); $c->unsubscribe('room'); $c->bind('someone'); $c->send('x'); $c->close();
    $server->stop(0);
});
$server->start();
$peers = [];
for ($i = 0; $i < 5; $i++) { $peers[] = Peer::open($server); }
$server->stop(0);
// Everything is there before the first callback: five closes and the end of the server.
meanwhile(fn () => $server->stats()['watchdog']['eventsWaiting'] === 6, 'the end of the server');
$server->run();
var_dump($closed);

$client = new WsClient('ws://127.0.0.1:1', ['reconnect' => ['maxAttempts' => 1, 'first' => 0]]);
$client->onStateChange(function (WsTransition $t) use (&$client) { if ($t->to === WsState::Closed) { $client->wake(); $client->close(); } });
$client->onError(function (Throwable $e) use (&$client) {
    echo get_class($e), "\n";
    $client->close();
    var_dump($client->unacknowledged(), $client->state());
});
$client->connect();
meanwhile(fn () => $client->stats()['state'] === 'Closed', 'the end of the attempts');
$client->run();
?>
--EXPECT--
int(5)
WsConnectException
int(0)
enum(WsState::Closed)
