--TEST--
An object that was made but not started before a fork works in parent and child
--FILE--
<?php
require __DIR__ . '/../inc/ws.php';
$server = new WsServer('ws://127.0.0.1:0');
$server->onMessage(fn ($c, $data) => $c->send(getmypid() . " $data"));
$child = pcntl_fork();
$server->start();
$peer = Peer::open($server);
$peer->text('x');
$answer = $peer->next($server) === 'text ' . getmypid() . ' x';
if ($child === 0) {
    exit($answer ? 9 : 1);
}
pcntl_waitpid($child, $status);
var_dump(pcntl_wexitstatus($status), $answer);
?>
--EXPECT--
int(9)
bool(true)
