--TEST--
stats() of server and connection
--FILE--
<?php
require __DIR__ . '/../inc/ws.php';
$server = serve(['message' => fn ($c, $d) => $c->send($d)]);
$peer = Peer::open($server);
$peer->text('12345');
$peer->next($server);
[$c] = $server->connections();
$stats = $c->stats();
var_dump($stats['messagesIn'], $stats['messagesOut'], is_float($stats['uptime']), array_key_exists('rtt', $stats));
var_dump(is_array($server->stats()), count($server->stats()) > 3, json_encode($server->stats()) !== false);
?>
--EXPECT--
int(1)
int(1)
bool(true)
bool(true)
bool(true)
bool(true)
bool(true)
