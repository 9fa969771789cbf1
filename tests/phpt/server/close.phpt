--TEST--
Close codes and reasons both ways
--FILE--
<?php
require __DIR__ . '/../inc/ws.php';
$server = serve([
    'message' => function ($c, $data) { [$code, $reason] = explode(' ', $data); $c->close((int) $code, $reason); var_dump($c->isOpen(), $c->send('late')); },
    'close' => function ($c, int $code, string $reason, bool $clean) { global $log; $log .= "onClose $code '$reason' " . var_export($clean, true) . ' ' . var_export($c->isOpen(), true) . "\n"; },
]);
$peer = Peer::open($server);
$peer->close(4321, 'enough');
echo $peer->next($server), "\n", $peer->next($server), "\n";
pump($server, fn () => count($server) === 0);
echo $log;
$log = '';
$peer = Peer::open($server);
$peer->text('4999 bye');
echo $peer->next($server), "\n";
$peer->close(4999);
echo $peer->next($server), "\n";
pump($server, fn () => count($server) === 0);
echo $log;
$log = '';
$peer = Peer::open($server);
$peer->frame(0x88, '');
echo $peer->next($server), "\n";
pump($server, fn () => count($server) === 0);
echo $log;
$log = '';
$peer = Peer::open($server);
$peer->cut();
pump($server, fn () => count($server) === 0);
echo $log;
$log = '';
?>
--EXPECTF--
close 4321%S
end
onClose 4321 'enough' true false
bool(false)
bool(false)
close 4999 bye
end
onClose 4999 '%S' true false
close
onClose 1005 '' true false
onClose 1006 '%S' false false
