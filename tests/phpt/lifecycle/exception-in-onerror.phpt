--TEST--
An exception in onError: both are warnings, and the server goes on
--FILE--
<?php
require __DIR__ . '/../inc/ws.php';
$server = serve(['message' => function ($c, $data) { if ($data === 'throw') { throw new Exception('first'); } $c->send($data); },
    'error' => function (Throwable $e) { throw new Exception('second', 0, $e); }]);
$peer = Peer::open($server);
$peer->text('throw');
echo $peer->next($server), "\n";
$peer = Peer::open($server);
$peer->text('alive');
echo $peer->next($server), "\n";
?>
--EXPECTF--
Warning: WsServer::poll(): WsServer: onMessage: uncaught Exception: first in %a
Warning: WsServer::poll(): WsServer: onError: uncaught Exception: first in %a
Next Exception: second in %a
close 1011
text alive
