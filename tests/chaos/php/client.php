<?php
// Clients that say what happens to them.
//   config: url, query (more of it), count (1), first (number of the first one), closeAfter (opens, then all close), options,
//   sendEvery, sendSize, sleep (seconds, once), wait (stays until a line has come on stdin),
//   logger (says what is logged), defaultLog (no onError), channels (to subscribe to)

declare(strict_types=1);

require __DIR__ . '/common.php';

$config = config();
$clients = [];
$first = $config['first'] ?? 0;
$opens = 0;
for ($n = $first; $n < $first + ($config['count'] ?? 1); $n++) {
    if ($config['logger'] ?? false) {
        $config['options']['logger'] = static fn (string $level, string $message, array $context) => say('log', ['level' => $level, 'message' => $message, 'context' => $context]);
    }
    $client = new WsClient($config['url'] . "?id=$n" . ($config['query'] ?? ''), $config['options'] ?? []);
    $client->onStateChange(static function (WsTransition $t) use ($n): void {
        say('state', [
            'client' => $n,
            'from' => $t->from->name,
            'to' => $t->to->name,
            'code' => $t->code,
            'reason' => $t->reason,
            'attempt' => $t->attempt,
            'delay' => $t->delay,
        ]);
    });
    $client->onClose(static function (WsClient $c, int $code, string $reason, bool $clean) use ($n): void {
        say('close', ['client' => $n, 'code' => $code, 'reason' => $reason, 'clean' => $clean]);
    });
    $client->onMessage(static function (): void {});
    $client->onOpen(static function () use (&$clients, &$opens, $config): void {
        if (++$opens === ($config['closeAfter'] ?? 0)) {
            // The one whose end ends run() comes last.
            foreach (array_reverse($clients) as $client) {
                $client->close();
            }
        }
    });
    if (!($config['defaultLog'] ?? false)) {
        $client->onError(static function (Throwable $e) use ($n): void {
            say('error', ['client' => $n, 'class' => $e::class, 'message' => $e->getMessage()]);
        });
    }
    foreach ($config['channels'] ?? [] as $channel) {
        $client->subscribe($channel);
    }
    $client->connect();
    $clients[] = $client;
}
if (isset($config['sendEvery'])) {
    $message = str_repeat('c', $config['sendSize']);
    $clients[0]->every($config['sendEvery'], static fn () => $clients[0]->send($message, true));
}
if (isset($config['sleep'])) {
    $clients[0]->after(0.1, static function () use ($config): void {
        say('blocked');
        sleep($config['sleep']);
        say('unblocked');
    });
}
say('started');
try {
    $clients[0]->run();
} catch (WsException $e) {
    // Where nobody has asked for it.
    error_log("uncaught: {$e->getMessage()}");
}
// The timer's closure holds the clients and they hold it: the collector has to see that.
$clients = [];
unset($client);
say('ended', ['collected' => gc_collect_cycles()]);
if ($config['wait'] ?? false) {
    fgets(STDIN);
}
