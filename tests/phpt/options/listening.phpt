--TEST--
reusePort lets two servers share a port; backlog and ioThreads are taken
--EXTENSIONS--
lifeline
--FILE--
<?php
require __DIR__ . '/../inc/client.php';
$one = serve([], ['reusePort' => true, 'backlog' => 1, 'ioThreads' => 2]);
$two = serve([], ['reusePort' => true], $one->address());
var_dump($one->address() === $two->address());
echo get_class((function () use ($one) { try { return serve([], [], $one->address()); } catch (WsConnectException $e) { return $e; } })()), "\n";
$peers = [];
$end = microtime(true) + LIMIT;
while ((count($one) === 0 || count($two) === 0) && microtime(true) < $end) { // the kernel chooses by the peer's port
    $peers[] = $peer = new Peer($one->address());
    $peer->head($one);
}
var_dump(count($one) > 0, count($two) > 0);
--EXPECT--
bool(true)
WsConnectException
bool(true)
bool(true)
