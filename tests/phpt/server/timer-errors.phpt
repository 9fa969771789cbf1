--TEST--
An exception in a timer goes to onError or a warning, and the timer goes on
--FILE--
<?php
require __DIR__ . '/../inc/ws.php';
$server = serve();
$n = 0;
$server->every(0.001, function () use (&$n) { $n++; throw new Exception("tick $n"); });
pump($server, function () use (&$n) { return $n === 1; });
$server->onError(function (Throwable $e, ?WsConnection $c) { echo $e->getMessage(), ' ', var_export($c, true), "\n"; });
pump($server, function () use (&$n) { return $n === 2; });
?>
--EXPECTF--
Warning: WsServer::poll(): WsServer: a timer: uncaught Exception: tick 1 in %s:%d
Stack trace:
%A
tick 2 NULL
