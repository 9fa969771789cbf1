--TEST--
exit() in a signal handler, and the default action, end run()
--FILE--
<?php
require __DIR__ . '/../inc/ws.php';
foreach (['pcntl_async_signals(true); pcntl_signal(SIGTERM, function () { echo "bye\n"; exit(6); });', ''] as $handler) {
    [$status, $output] = php($handler . '
        $server = serve();
        $parent = getmypid();
        // When the timer was the last thing to do and the main thread waits.
        $pipe = popen("read go; until grep -q \'^State:.S\' /proc/$parent/status; do :; done; kill -TERM $parent", "w");
        $server->after(0, function () use ($pipe) { fwrite($pipe, "go\n"); });
        $server->run();
        echo "not reached";');
    echo $output, $status, "\n";
}
?>
--EXPECTF--
bye
6
%d
