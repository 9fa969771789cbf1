--TEST--
abort() drops the socket at once; ping() goes out beside the heartbeats and gives a round-trip time
--FILE--
<?php
require __DIR__ . '/../inc/ws.php';
$server = serve(['close' => function ($c, $code, $reason, $clean) { global $log; $log .= "onClose $code ". var_export($clean, true) . "\n"; }]);
$peer = Peer::open($server);
[$c] = $server->connections();
$c->ping('hello');
echo $peer->next($server), "\n";
$c->abort();
echo $peer->next($server), "\n";
pump($server, fn () => count($server) === 0);
echo $log;
?>
--EXPECT--
ping hello
end
onClose 1006 false
