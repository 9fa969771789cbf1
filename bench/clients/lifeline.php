<?php
// WsClient measured from inside: MODE receive|send|reconnect, URL, SECONDS. Prints JSON.
declare(strict_types=1);

[, $mode, $url, $seconds] = $argv;
$seconds = (float) $seconds;
$cpu = static function (): float {
    $use = getrusage();
    return $use['ru_utime.tv_sec'] + $use['ru_stime.tv_sec'] + ($use['ru_utime.tv_usec'] + $use['ru_stime.tv_usec']) / 1e6;
};
$now = static fn (): float => hrtime(true) / 1e9;
$client = new WsClient($url, [
    'outbox' => ['limit' => 1_000_000, 'bytes' => 256 << 20],
    // A link that lasts 20 ms counts as good: each loss is a first one.
    'reconnect' => ['stableAfter' => 0.01],
]);
$count = 0;

if ($mode === 'receive') {
    $client->onMessage(static function (WsClient $c, string $data) use (&$count): void {
        ++$count;
    });
    $client->connect();
    $run = static function (float $length) use ($client, $now): void {
        $end = $now() + $length;
        while ($now() < $end) {
            $client->poll(0.01);
        }
    };
    $run(0.5);
    $count = 0;
    $before = $cpu();
    $start = $now();
    $run($seconds);
} elseif ($mode === 'send') {
    $client->connect();
    $message = str_repeat('x', 32);
    $client->send($message);
    $client->flush(10.0);
    $before = $cpu();
    $start = $now();
    while ($now() - $start < $seconds) {
        for ($n = 0; $n < 10_000; ++$n) {
            $client->send($message, true);
        }
        if (!$client->flush(10.0)) {
            fwrite(STDERR, "flush() took more than 10 s\n");
            exit(1);
        }
        $count += 10_000;
    }
} else {
    // Each loss to the next onOpen, with the defaults, that is a first retry within 0.1 s.
    $lost = null;
    $delays = [];
    $client->onOpen(static function () use (&$lost, &$delays, $now): void {
        if ($lost !== null) {
            $delays[] = ($now() - $lost) * 1e3;
        }
    });
    $client->onClose(static function () use (&$lost, &$count, $now): void {
        $lost = $now();
        ++$count;
    });
    $client->onError(static function (): void {});
    $before = $cpu();
    $start = $now();
    $client->connect();
    while ($now() - $start < $seconds) {
        $client->poll(0.05);
    }
    sort($delays);
    $at = static fn (float $share): ?float => $delays[(int) ((count($delays) - 1) * $share)] ?? null;
    echo json_encode(['reconnects' => count($delays), 'p50_ms' => $at(0.5), 'p99_ms' => $at(0.99), 'cpu_ms' => ($cpu() - $before) * 1e3 / max(1, count($delays))]), "\n";
    $client->close();
    exit(0);
}
$took = $now() - $start;
echo json_encode([
    'messages' => $count,
    'seconds' => $took,
    'messages_per_second' => $count / $took,
    'cpu_seconds_per_million' => ($cpu() - $before) * 1e6 / max(1, $count),
    'memory' => memory_get_peak_usage(true),
]), "\n";
// A flood has no end to wait for.
$client->close();
exit(0);
