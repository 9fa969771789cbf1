--TEST--
Threads start with start(), not with the module; they take no signals, and their number is an option or an ini value
--FILE--
<?php
require __DIR__ . '/../inc/ws.php';
function threads(): array
{
    $found = [];
    foreach (glob('/proc/self/task/*/status') as $file) {
        $status = @file_get_contents($file);
        if (preg_match('~^Name:\s+(lifeline-io\S*)~m', $status, $name)) {
            preg_match('~^SigBlk:\s+(\S+)~m', $status, $mask);
            // SIGKILL and SIGSTOP cannot be blocked; libc keeps 32 and 33.
            // Valgrind keeps those for itself that a thread raises by what it does (SIGSEGV and the like).
            $free = 0x80040100 | (SLOW ? 0x400004d8 : 0);
            $found[$name[1]] = (hexdec(substr($mask[1], -8)) | $free) === 0xffffffff ? 'blocked' : $mask[1];
        }
    }
    ksort($found);
    return $found;
}
var_dump(threads());
$server = new WsServer('ws://127.0.0.1:0', ['ioThreads' => 3]);
var_dump(threads());
$server->start();
$peer = Peer::open($server);
echo json_encode(threads()), "\n";
echo php('ini_set("lifeline.io_threads", 2); serve(); echo count(glob("/proc/self/task/*")), "\n";')[1];
?>
--EXPECT--
array(0) {
}
array(0) {
}
{"lifeline-io-0":"blocked","lifeline-io-1":"blocked","lifeline-io-2":"blocked"}
3
