--TEST--
An error handler that turns warnings into exceptions does not kill the server
--FILE--
<?php
require __DIR__ . '/../inc/ws.php';
set_error_handler(function ($level, $message, $file, $line) { throw new ErrorException($message, 0, $level, $file, $line); });
$server = serve(['message' => function ($c, $data) {
    if ($data === 'throw') { throw new Exception('boom'); }
    if ($data === 'warn') { echo $undefined; }
    $c->send($data);
}]);
foreach (['throw', 'warn'] as $what) {
    $peer = Peer::open($server);
    $peer->text($what);
    echo $peer->next($server), "\n";
}
$peer = Peer::open($server);
$peer->text('alive');
echo $peer->next($server), "\n";
?>
--EXPECTF--
Warning: WsServer::poll(): WsServer: onMessage: uncaught Exception: boom in %a
close 1011

Warning: WsServer::poll(): WsServer: onMessage: uncaught ErrorException: Undefined variable $undefined in %a
close 1011
text alive
