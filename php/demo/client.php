<?php
// A client of `make run`: sends numbered messages, counts what comes back, tells what its connection
// does. Arguments: name, url. Writes lines of JSON.
declare(strict_types=1);

pcntl_async_signals(true);

[, $name, $url] = $argv;
$emit = function (string $event, array $fields = []): void {
    fwrite(STDOUT, json_encode(['event' => $event] + $fields) . "\n");
};
$client = new WsClient("$url/$name", [
    'heartbeat' => ['mode' => 'fixed', 'interval' => 1.0, 'timeout' => 1.0],
    'reconnect' => ['base' => 0.2, 'max' => 1.0],
]);
$sent = 0;
$received = [];
$client->onMessage(function (WsClient $c, string $data) use (&$received, $emit): void {
    $message = json_decode($data, true);
    if (isset($message['n'])) {
        $received[$message['n']] = ($received[$message['n']] ?? 0) + 1;
    } elseif (isset($message['block'])) {
        $emit('blocked', ['seconds' => $message['block']]);
        $until = microtime(true) + $message['block'];
        while (microtime(true) < $until) {
            usleep(20_000);
        }
        $emit('awake');
    }
});
$client->onStateChange(function (WsTransition $t) use ($emit): void {
    $emit('state', [
        'from' => $t->from->name,
        'to' => $t->to->name,
        'code' => $t->code,
        'reason' => $t->reason,
        'attempt' => $t->attempt,
        'delay' => $t->delay,
    ]);
});
$client->onError(fn (Throwable $e) => $emit('error', ['message' => $e->getMessage()]));
$counts = function () use (&$sent, &$received, $client, $emit): void {
    $emit('counts', [
        'sent' => $sent,
        'received' => count($received),
        'duplicates' => array_sum($received) - count($received),
        'waiting' => $client->unacknowledged(),
    ]);
};
$sending = true;
$client->every(0.4, function () use (&$sent, &$sending, $client, $counts): void {
    if ($sending) {
        $client->send(json_encode(['n' => ++$sent]));
    }
    $counts();
});
// USR1: no more messages; what is under way may come back.
pcntl_signal(SIGUSR1, function () use (&$sending): void {
    $sending = false;
});
pcntl_signal(SIGTERM, fn () => $client->close());
$client->connect();
$client->run();
$counts();
