--TEST--
stop() ends gracefully: 1001 to all, onClose for each, then run() returns; the server can start again
--FILE--
<?php
require __DIR__ . '/../inc/ws.php';
$server = serve(['close' => function ($c, $code, $reason, $clean) { echo "onClose $c->id $code ", var_export($clean, true), "\n"; }]);
$polite = Peer::open($server);
$rude = Peer::open($server);
$server->after(0, fn () => $server->stop(0.4));
$server->onMessage(function () { });
$start = microtime(true);
$fiber = new Fiber(fn () => $server->run());
$answered = false;
$server->every(0.005, function () use ($polite, &$answered) { if (!$answered && ($frame = $polite->poll('frame'))) { $answered = true; $polite->close(1001); } });
$server->run();
var_dump(microtime(true) - $start < 10, count($server), $answered);
echo $rude->next(), ' ', $rude->next(), "\n";
$server->start();
$peer = Peer::open($server);
$peer->close();
pump($server, fn () => count($server) === 0);
?>
--EXPECTF--
onClose %d %d %s
onClose %d %d %s
bool(true)
int(0)
bool(true)
close 1001%S end
onClose 3 1000 true
