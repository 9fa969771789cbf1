--TEST--
bind, sendToUser, isOnline, connectionsOf, disconnectUser
--FILE--
<?php
require __DIR__ . '/../inc/ws.php';
$server = serve(['close' => function ($c, $code, $reason) { global $log; $log[] = "onClose $c->user $code"; }]);
$peers = [Peer::open($server), Peer::open($server), Peer::open($server)];
[$a, $b, $c] = $server->connections();
$a->bind('anna');
$b->bind('anna');
$c->bind('bert');
var_dump($a->user, $server->isOnline('anna'), $server->isOnline('zoe'), array_map(fn ($c) => $c->id, $server->connectionsOf('anna')));
var_dump($server->sendToUser('anna', 'hi'), $server->sendToUser('zoe', 'hi'));
echo $peers[0]->next($server), ' ', $peers[1]->next($server), "\n";
$c->bind('anna');
var_dump($server->isOnline('bert'), $c->user, $server->disconnectUser('anna', 4200, 'moved'));
foreach ($peers as $peer) {
    echo $peer->next($server), "\n";
    $peer->close(4200);
}
pump($server, fn () => count($server) === 0);
echo implode("\n", $log), "\n";
var_dump($server->isOnline('anna'), $server->disconnectUser('anna'));
?>
--EXPECTF--
string(4) "anna"
bool(true)
bool(false)
array(2) {
  [0]=>
  int(1)
  [1]=>
  int(2)
}
int(2)
int(0)
text hi text hi
bool(false)
string(4) "anna"
int(3)
close 4200 moved
close 4200 moved
close 4200 moved
onClose anna 4200
onClose anna 4200
onClose anna 4200
bool(false)
int(0)
