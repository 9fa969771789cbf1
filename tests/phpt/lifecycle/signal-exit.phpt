--TEST--
exit() in a signal handler, and the default action, end run()
--FILE--
<?php
require __DIR__ . '/../inc/ws.php';
foreach (['pcntl_async_signals(true); pcntl_signal(SIGTERM, function () { echo "bye\n"; exit(6); });', ''] as $handler) {
    [$status, $output] = php($handler . '
        $server = serve();
        $parent = getmypid();
        $server->after(0.05, function () use ($parent) { exec("(sleep 0.1; kill -TERM $parent) > /dev/null 2>&1 &"); });
        $server->run();
        echo "not reached";');
    echo $output, $status, "\n";
}
?>
--EXPECTF--
bye
6
%d
