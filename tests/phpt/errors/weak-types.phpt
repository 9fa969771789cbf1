--TEST--
Scalars convert as for PHP's own functions
--FILE--
<?php
require __DIR__ . '/../inc/ws.php';
$server = serve();
$peer = Peer::open($server);
[$c] = $server->connections();
var_dump($c->send(12.5), $c->send(new class { public function __toString(): string { return 'object'; } }, 1), $c->send(data: true, binary: 0));
echo $peer->next(), "\n", $peer->next(), "\n", $peer->next(), "\n";
var_dump($server->poll('0'), is_int($server->after(0, fn () => 1)));
$c->close('1000', 5);
echo $peer->next(), "\n";
?>
--EXPECT--
bool(true)
bool(true)
bool(true)
text 12.5
binary 6f626a656374
text 1
int(0)
bool(true)
close 1000 5
