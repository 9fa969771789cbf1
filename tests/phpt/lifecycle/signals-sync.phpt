--TEST--
A SIGTERM handler works at once while run() waits, without pcntl_async_signals()
--FILE--
<?php
require __DIR__ . '/../inc/ws.php';
pcntl_async_signals(false);
$server = serve();
pcntl_signal(SIGTERM, function () use ($server) { echo "SIGTERM\n"; $server->stop(0); });
pcntl_signal(SIGINT, function () { throw new Exception('SIGINT'); });
$parent = getmypid();
$child = pcntl_fork();
if ($child === 0) {
    usleep(200000);
    exec("kill -INT $parent");
    usleep(200000);
    exec("kill -TERM $parent");
    pcntl_exec('/bin/true');
}
$start = microtime(true);
try { $server->run(); } catch (Exception $e) { echo $e->getMessage(), "\n"; }
$server->run();
var_dump(microtime(true) - $start < 10);
pcntl_waitpid($child, $status);
?>
--EXPECT--
SIGINT
SIGTERM
bool(true)
