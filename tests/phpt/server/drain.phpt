--TEST--
onDrain tells when a full send buffer has emptied; the policy drops what does not fit
--FILE--
<?php
require __DIR__ . '/../inc/ws.php';
$server = serve(['drain' => function (WsConnection $c) use (&$drained) { $drained = true; var_dump($c->bufferedBytes() < 1000000); }],
    ['send' => ['limit' => 1000000, 'policy' => 'dropNewest']]);
$peer = Peer::open($server);
[$c] = $server->connections();
$sent = 0;
$chunk = str_repeat('x', 100000);
while ($c->send($chunk) && $sent < 1000) { $sent++; usleep(200); }
var_dump($sent > 5, $sent < 1000, $c->bufferedBytes() > 0);
for ($i = 0; $i < $sent; $i++) { $peer->read($server); }
pump($server, function () use (&$drained) { return $drained; }, 'onDrain');
var_dump($c->send('fits'));
?>
--EXPECT--
bool(true)
bool(true)
bool(true)
bool(true)
bool(true)
