<?php
/** Sends into an outbox on disk: durable.php DURABILITY BATCH SECONDS; prints one line of JSON. Offline: the disk alone. */
[, $durability, $batch, $seconds] = $argv;
$directory = sys_get_temp_dir() . '/lifeline-bench-' . getmypid();
$client = new WsClient('ws://127.0.0.1:1', [
    'outbox' => ['path' => $directory, 'durability' => $durability, 'limit' => 10_000_000, 'bytes' => 3 << 30],
    'limits' => ['memory' => 4 << 30],
]);
$message = str_repeat('x', 256);
$messages = array_fill(0, (int) $batch, $message);
$client->send($message);
$cpu = fn () => array_sum(array_map(fn ($kind) => getrusage()["ru_{$kind}time.tv_sec"] + getrusage()["ru_{$kind}time.tv_usec"] / 1e6, ['u', 's']));
$used = $cpu();
$count = 0;
$start = microtime(true);
do {
    if ($batch > 1) {
        $client->sendMany($messages);
    } else {
        $client->send($message);
    }
    $count += $batch;
} while (($elapsed = microtime(true) - $start) < $seconds);
$used = $cpu() - $used;
$stats = $client->stats()['outbox'];
echo json_encode(['rate' => $count / $elapsed, 'cpuUs' => $used * 1e6 / $count, 'fsyncs' => $stats['fsyncs'],
    'bytes' => $stats['bytesOnDisk'] / ($count + 1)]), "\n";
$client->close();
unset($client);
register_shutdown_function(fn () => array_map('unlink', glob("$directory/*")) && rmdir($directory));
