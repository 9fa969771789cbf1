<?php
// Sends numbered messages and writes down what becomes of them, until the file `stop` is there.
//   config: url, log, client, life, batch (messages each 5 ms, not while the file `pause` is there), size, stop, pause, options
// Lines of the log: b (the process began), s (the last that send() took), a (all up to it are acknowledged), r (an answer),
// g (a gap), c and o (the connection was lost, is open), end (all was acknowledged, and the last was answered).
// Lines of LOG.p: what was published, offset and text.

declare(strict_types=1);

require __DIR__ . '/common.php';

$config = config();
$log = fopen($config['log'], 'a');
$published = fopen("$config[log].p", 'a');
stream_set_write_buffer($log, 0);
stream_set_write_buffer($published, 0);
fprintf($log, "b %.6f\n", microtime(true));
$client = new WsClient($config['url'], $config['options'] ?? []);
$client->onOpen(static function (WsClient $c, bool $resumed) use ($log): void {
    fwrite($log, sprintf("o %.6f %d\n", microtime(true), $resumed));
});
$client->onClose(static function (WsClient $c, int $code) use ($log): void {
    fwrite($log, sprintf("c %.6f %d\n", microtime(true), $code));
});
$answered = 0;
$client->onMessage(static function (WsClient $c, string $data, bool $binary, WsMessage $m) use ($log, $published, $config, &$answered): void {
    if ($m->channel !== null) {
        fwrite($published, "$m->sequence $data\n");
        return;
    }
    [$life, $number] = explode(' ', $data);
    // Not to what an earlier process has left in the outbox.
    if ($life === (string) $config['life']) {
        fwrite($log, "r $number\n");
        $answered = (int) $number;
    }
});
$client->onGap(static function (WsGap $g) use ($log): void {
    fwrite($log, "g $g->from " . ($g->to ?? '-') . " $g->why " . ($g->channel ?? '-') . "\n");
});
$last = $acknowledged = 0;
$padding = str_repeat('.', $config['size']);
$client->every(0.005, static function () use ($client, $config, $log, $padding, &$last, &$acknowledged, &$answered): void {
    if (!file_exists($config['stop'])) {
        $before = $last;
        for ($n = 0; $n < $config['batch'] && !file_exists($config['pause']) && $client->unacknowledged() < 2000; $n++) {
            $client->send("$config[client] $config[life] " . ($last + 1) . " $padding");
            $last++;
        }
        if ($last > $before) {
            fwrite($log, "s $last\n");
        }
    } elseif ($client->unacknowledged() === 0 && $answered === $last) {
        fwrite($log, "a $last\nend\n");
        exit;
    }
    // What an earlier process has left in the outbox goes first.
    $now = max(0, $last - $client->unacknowledged());
    if ($now !== $acknowledged) {
        $acknowledged = $now;
        fwrite($log, "a $acknowledged\n");
    }
});
say('started');
$client->run();
