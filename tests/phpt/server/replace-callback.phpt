--TEST--
Setting a callback again replaces it, also from inside itself
--FILE--
<?php
require __DIR__ . '/../inc/ws.php';
$server = serve();
$server->onMessage(function ($c, $data) use ($server) {
    echo "first $data\n";
    $server->onMessage(function ($c, $data) { echo "second $data\n"; $c->close(); });
    echo "still first\n";
});
$peer = Peer::open($server);
$peer->text('a');
$peer->text('b');
pump($server, fn () => $peer->poll('frame') !== null);
?>
--EXPECT--
first a
still first
second b
