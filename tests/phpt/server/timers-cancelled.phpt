--TEST--
Timers far ahead that are cancelled leave no memory behind
--FILE--
<?php
require __DIR__ . '/../inc/ws.php';
$server = serve();
$resident = fn () => (int) explode(' ', file_get_contents('/proc/self/statm'))[1] * 4096;
$once = fn () => 1;
$kept = false;
$server->after(0.2, function () use (&$kept) { $kept = true; });
for ($i = 0; $i < 10000; $i++) { $server->cancel($server->after(3600, $once)); }
$before = $resident();
for ($i = 0; $i < (SLOW ? 10000 : 1000000); $i++) { $server->cancel($server->after(3600, $once)); }
$grown = $resident() - $before;
// Valgrind keeps freed memory for a while.
var_dump((SLOW || $grown < 10e6) ?: $grown);
pump($server, function () use (&$kept) { return $kept; });
?>
--EXPECT--
bool(true)
