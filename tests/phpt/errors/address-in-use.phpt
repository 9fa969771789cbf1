--TEST--
An address in use is a WsConnectException at start() that names it
--FILE--
<?php
require __DIR__ . '/../inc/ws.php';
$first = serve();
$second = new WsServer($first->address());
try { $second->start(); } catch (WsConnectException $e) { echo str_replace(substr($first->address(), 5), 'ADDRESS', $e->getMessage()), "\n"; }
// Nothing was started: the object can try again.
$first->stop(0);
$first->run();
$second->start();
var_dump($second->address() === $first->address());
?>
--EXPECTF--
%AADDRESS%A
bool(true)
