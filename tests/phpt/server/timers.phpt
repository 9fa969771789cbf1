--TEST--
after, every and cancel
--FILE--
<?php
require __DIR__ . '/../inc/ws.php';
$server = serve();
$log = [];
$server->after(0.05, function () use (&$log) { $log[] = 'b'; });
$server->after(0, function () use (&$log) { $log[] = 'a'; });
$never = $server->after(0.01, function () use (&$log) { $log[] = 'never'; });
$server->cancel($never);
$server->cancel(9999);
$n = 0;
$id = $server->every(0.01, function () use (&$n, &$id, $server) { if (++$n === 3) { $server->cancel($id); } });
pump($server, function () use (&$log, &$n) { return count($log) === 2 && $n === 3; });
for ($i = 0; $i < 5; $i++) { $server->poll(0.02); }
var_dump(implode($log), $n, is_int($id) && $id !== $never);
// poll() counts the callbacks that it has run, and its timeout is a limit, not a minimum.
$server->after(0, fn () => 1);
$server->after(0, fn () => 1);
var_dump($server->poll(5), $server->poll(0));
// A timer can be made and cancelled by a timer, also the one that runs.
$self = $server->every(0.001, function () use (&$self, $server, &$inner) { $server->cancel($self); $server->after(0, function () use (&$inner) { $inner = true; }); });
pump($server, function () use (&$inner) { return $inner === true; });
?>
--EXPECT--
string(2) "ab"
int(3)
bool(true)
int(2)
int(0)
