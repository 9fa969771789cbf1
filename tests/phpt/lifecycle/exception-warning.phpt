--TEST--
Without onError an exception is an E_WARNING with its trace, the connection is closed with 1011, the server goes on
--FILE--
<?php
require __DIR__ . '/../inc/ws.php';
$server = serve(['message' => function ($c, $data) { if ($data === 'throw') { thrower(); } $c->send("ok $data"); },
    'close' => function ($c, $code, $reason, $clean) { echo "onClose $code\n"; }]);
function thrower() { throw new DomainException('boom'); }
$one = Peer::open($server);
$two = Peer::open($server);
$one->text('throw');
echo $one->next($server), "\n";
$one->close(1011);
pump($server, fn () => count($server) === 1);
$two->text('after');
echo $two->next($server), "\n";
?>
--EXPECTF--
Warning: WsServer::poll(): WsServer: onMessage: uncaught DomainException: boom in %sexception-warning.php:5
Stack trace:
#0 %sexception-warning.php(%d): thrower()
%A
close 1011
onClose 1011
text ok after
