--TEST--
At the end of the script peers get 1001, also when nobody has stopped the server
--FILE--
<?php
require __DIR__ . '/../inc/ws.php';
foreach (['', 'exit(0);', 'throw new Exception("x");', 'trigger_error("x", E_USER_ERROR);', '$cycle = [$server]; $cycle[] = &$cycle; unset($server);'] as $end) {
    $listener = stream_socket_server('tcp://127.0.0.1:0');
    $process = proc_open([PHP_BINARY, '-d', 'extension=' . extension_path(), '-d', 'display_errors=0', '-d', 'log_errors=0', '-r',
        'require "' . __DIR__ . '/../inc/ws.php"; $server = serve(); echo $server->address(), "\n"; pump($server, fn () => count($server) === 1); ' . $end],
        [1 => ['pipe', 'w']], $pipes);
    $peer = new Peer(trim(fgets($pipes[1])));
    $peer->head();
    $start = microtime(true);
    echo $peer->next(), ' ';
    $peer->close(1001);
    echo $peer->next(), ' ', proc_close($process), "\n";
}
?>
--EXPECTF--
close 1001%S end 0
close 1001%S end 0
close 1001%S end 255
close 1001%S end 255
close 1001%S end 0
