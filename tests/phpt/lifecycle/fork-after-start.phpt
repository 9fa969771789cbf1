--TEST--
After a fork the child's inherited objects throw, the child exits cleanly and can start its own; the parent goes on
--FILE--
<?php
require __DIR__ . '/../inc/ws.php';
$server = serve(['message' => fn ($c, $data) => $c->send("parent $data")]);
$peer = Peer::open($server);
[$c] = $server->connections();
$stream = $server->stream();
$child = pcntl_fork();
if ($child === 0) {
    foreach ([fn () => $server->poll(), fn () => $server->run(), fn () => $server->stop(), fn () => $server->broadcast('x'), fn () => count($server), fn () => $server->onMessage(fn () => 1),
        fn () => $server->stream(), fn () => $c->send('x'), fn () => $c->close(), fn () => $c->isOpen(), fn () => $server->after(1, fn () => 1)] as $try) {
        try { $try(); echo "worked\n"; } catch (Error $e) { echo $e->getMessage(), "\n"; }
    }
    $own = serve(['message' => fn ($c, $data) => $c->send("child $data")]);
    $mine = Peer::open($own);
    $mine->text('hello');
    echo $mine->next($own), "\n";
    unset($server, $c);
    gc_collect_cycles();
    exit(5);
}
pcntl_waitpid($child, $status);
var_dump(pcntl_wexitstatus($status));
$peer->text('still here');
echo $peer->next($server), "\n";
?>
--EXPECT--
this WsServer was started before the process forked and belongs to the parent process; create a new one after the fork
this WsServer was started before the process forked and belongs to the parent process; create a new one after the fork
this WsServer was started before the process forked and belongs to the parent process; create a new one after the fork
this WsServer was started before the process forked and belongs to the parent process; create a new one after the fork
this WsServer was started before the process forked and belongs to the parent process; create a new one after the fork
this WsServer was started before the process forked and belongs to the parent process; create a new one after the fork
this WsServer was started before the process forked and belongs to the parent process; create a new one after the fork
this WsConnection was started before the process forked and belongs to the parent process; create a new one after the fork
this WsConnection was started before the process forked and belongs to the parent process; create a new one after the fork
this WsConnection was started before the process forked and belongs to the parent process; create a new one after the fork
this WsServer was started before the process forked and belongs to the parent process; create a new one after the fork
text child hello
int(5)
text parent still here
