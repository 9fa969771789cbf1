--TEST--
onError gets the exception and the connection, from every callback
--FILE--
<?php
require __DIR__ . '/../inc/ws.php';
$server = serve([
    'open' => fn () => throw new Exception('in open'),
    'close' => fn () => throw new Exception('in close'),
    'error' => function (Throwable $e, ?WsConnection $c) { echo get_class($e), ' ', $e->getMessage(), ' ', $c?->id ?? 'none', "\n"; },
]);
$peer = Peer::open($server);
echo $peer->next($server), "\n";
$peer->cut();
pump($server, fn () => count($server) === 0);
$server->onOpen(fn () => 1)->onMessage(fn (string $wrong) => 1);
$peer = Peer::open($server);
$peer->text('x');
echo $peer->next($server), "\n";
?>
--EXPECTF--
Exception in open 1
close 1011
Exception in close 1
TypeError {closure%S}(): Argument #1 ($wrong) must be of type string, WsConnection given 2
close 1011
