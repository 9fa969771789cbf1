<?php
// Clients of lifeline.v1 that send numbered messages, follow a channel and edit a document, until the file `stop` is there and
// all was answered.
//   config: url, first (number of the first), count, life, every (seconds between messages of each), size, stop, options,
//   log (of the numbers that send() took, where the process may be killed), document (edit it)

declare(strict_types=1);

require dirname(__DIR__, 2) . '/chaos/php/common.php';

$config = config();
$log = isset($config['log']) ? fopen($config['log'], 'a') : null;
if ($log !== null) {
    stream_set_write_buffer($log, 0);
}
$padding = str_repeat('.', $config['size']);
$life = (string) $config['life'];
$sent = $answered = $place = $replicas = $clients = $latencies = [];
$opens = $resumed = $heard = 0;
for ($n = $config['first']; $n < $config['first'] + $config['count']; $n++) {
    $client = new WsClient($config['url'], $config['options'] ?? []);
    $sent[$n] = $answered[$n] = 0;
    $client->onOpen(static function (WsClient $c, bool $again) use (&$opens, &$resumed): void {
        $opens++;
        $resumed += (int) $again;
    });
    $client->onMessage(static function (WsClient $c, string $data, bool $binary, WsMessage $m) use ($n, $life, &$answered, &$place, &$latencies, &$heard): void {
        if ($m->channel !== null) {
            if (isset($place[$n]) && $m->sequence !== $place[$n] + 1) {
                say('order', ['client' => $n, 'offset' => $m->sequence, 'before' => $place[$n]]);
            }
            $place[$n] = $m->sequence;
            $heard++;
            return;
        }
        [$of, $number, $at] = explode(' ', $data);
        // Not to what an earlier process has left in the outbox.
        if ($of !== $life) {
            return;
        }
        if ((int) $number !== $answered[$n] + 1) {
            say('order', ['client' => $n, 'answer' => $number, 'before' => $answered[$n]]);
        }
        $answered[$n] = (int) $number;
        $latencies[] = hrtime(true) - (int) $at;
    });
    $client->onGap(static fn (WsGap $g) => say('gap', ['client' => $n, 'channel' => $g->channel, 'from' => $g->from, 'to' => $g->to, 'why' => $g->why]));
    $client->onError(static fn (Throwable $e) => say('error', ['client' => $n, 'message' => $e->getMessage()]));
    $client->subscribe('news');
    if ($config['document'] ?? false) {
        $replicas[$n] = $client->document('board', ['conflict' => 'clientWins']);
    }
    $client->every($config['every'], static function () use ($client, $n, $config, $life, $padding, $log, &$sent, &$replicas): void {
        if (file_exists($config['stop']) || $client->unacknowledged() > 1000) {
            return;
        }
        $number = $sent[$n] + 1;
        $client->send("$n $life $number " . hrtime(true) . " $padding");
        $sent[$n] = $number;
        if ($log !== null) {
            fwrite($log, "$n $number\n");
        }
        if (isset($replicas[$n]) && $number % 20 === 0) {
            // One of its own, and one that all edit.
            $replicas[$n]->set("client $n", $number);
            $replicas[$n]->set('shared', "$n $number");
        }
    });
    $client->connect();
    $clients[$n] = $client;
}
$clients[$config['first']]->every(1.0, static function () use ($config, &$clients, &$sent, &$answered, &$latencies, &$opens, &$resumed, &$heard, &$replicas): void {
    sort($latencies);
    $count = count($latencies);
    if ($count > 0) {
        say('tick', ['median' => $latencies[intdiv($count, 2)] / 1e6, 'count' => $count]);
    }
    $latencies = [];
    if (!file_exists($config['stop']) || $sent !== $answered) {
        return;
    }
    foreach ($clients as $client) {
        if ($client->unacknowledged() > 0) {
            return;
        }
    }
    $board = array_map(static fn (WsReplica $replica): array => $replica->get(), $replicas);
    say('end', ['sent' => (object) $sent, 'opens' => $opens, 'resumed' => $resumed, 'heard' => $heard, 'board' => (object) $board]);
    exit;
});
say('started');
$clients[$config['first']]->run();
