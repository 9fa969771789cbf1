--TEST--
A fork inside a callback: the child falls out of run() with an Error, or exits
--FILE--
<?php
require __DIR__ . '/../inc/ws.php';
$server = serve(['message' => function ($c, $data) {
    if ($data === 'fork') {
        $child = pcntl_fork();
        if ($child === 0) {
            return;
        }
        pcntl_waitpid($child, $status);
        $c->send('child ended with ' . pcntl_wexitstatus($status));
    }
}]);
$peer = Peer::open($server);
$peer->text('fork');
$parent = getmypid();
try {
    echo $peer->next($server), "\n";
} catch (Error $e) {
    echo $e->getMessage(), "\n";
    exit(4);
}
?>
--EXPECT--
this event loop was started before the process forked and belongs to the parent process; create a new one after the fork
text child ended with 4
