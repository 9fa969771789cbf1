--TEST--
A fork inside a callback of run(): the child's run() ends with an Error, and the parent's events stay the parent's
--FILE--
<?php
require __DIR__ . '/../inc/ws.php';
$log = new ArrayObject;
$server = serve(['message' => function ($c, $data) use ($log, &$server) {
    $log[] = $data;
    if ($data === 'fork') {
        $child = pcntl_fork();
        if ($child !== 0) {
            pcntl_waitpid($child, $status);
            $log[] = 'child ' . pcntl_wexitstatus($status);
        }
    }
    if ($data === 'last') {
        $server->stop(0);
    }
}]);
$peer = Peer::open($server);
$peer->text('fork');
$peer->text('next');
$peer->text('last');
$parent = getmypid();
try {
    $server->run();
} catch (Error $e) {
    exit($parent !== getmypid() && count($log) === 1 && str_contains($e->getMessage(), 'forked') ? 8 : 1);
}
echo implode(' ', (array) $log), "\n";
?>
--EXPECT--
fork child 8 next last
