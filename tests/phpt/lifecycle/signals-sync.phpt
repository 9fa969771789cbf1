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
$running = stream_socket_pair(STREAM_PF_UNIX, STREAM_SOCK_STREAM, 0);
$enters = fn () => $server->after(0, fn () => fwrite($running[0], '.'));
$child = pcntl_fork();
if ($child === 0) {
    foreach (['INT', 'TERM'] as $signal) {
        fread($running[1], 1);
        meanwhile(fn () => preg_match('~^State:\tS~m', file_get_contents("/proc/$parent/status")), 'the wait in run()');
        exec("kill -$signal $parent");
    }
    pcntl_exec('/bin/true');
}
$start = microtime(true);
$enters();
try { $server->run(); } catch (Exception $e) { echo $e->getMessage(), "\n"; }
$enters();
$server->run();
var_dump(microtime(true) - $start < LIMIT / 2);
pcntl_waitpid($child, $status);
?>
--EXPECT--
SIGINT
SIGTERM
bool(true)
