--TEST--
broadcast reaches every connection but those excepted
--FILE--
<?php
require __DIR__ . '/../inc/ws.php';
$server = serve();
$peers = [Peer::open($server), Peer::open($server), Peer::open($server)];
[$a, $b, $c] = $server->connections();
var_dump($server->broadcast('all'), $server->broadcast("\x01", true, [$b]), $server->broadcast('last', except: [$a, $c->id]));
foreach ($peers as $peer) {
    echo $peer->next($server), ' ', $peer->next($server), "\n";
}
?>
--EXPECT--
int(3)
int(2)
int(1)
text all binary 01
text all text last
text all binary 01
