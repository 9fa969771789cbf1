<?php
// An echo server that takes orders: a text message that starts with the character 1.
//   config: listen, options, quiet (no events for opens and closes), echo (default true),
//   wait (bind when a line has come on stdin), ask (decide on handshakes, for all)

declare(strict_types=1);

require __DIR__ . '/common.php';

$config = config();
$quiet = $config['quiet'] ?? false;
$echo = $config['echo'] ?? true;

// Connections open now, by the id in the query.
$open = [];
$options = $config['options'] ?? [];
$options['logger'] = static fn (string $level, string $message) => say('log', ['level' => $level, 'message' => $message]);
$server = new WsServer($config['listen'] ?? 'ws://127.0.0.1:0', $options);

$server->onOpen(static function (WsConnection $c, WsRequest $r) use (&$open, $quiet): void {
    $c->data = $r->query['id'] ?? null;
    if ($c->data !== null) {
        $open[$c->data] = ($open[$c->data] ?? 0) + 1;
        if ($open[$c->data] > 1) {
            say('double', ['client' => $c->data, 'count' => $open[$c->data]]);
        }
    }
    if (isset($r->query['news'])) {
        $c->subscribe('news');
    }
    if (!$quiet) {
        say('open', ['id' => $c->id, 'client' => $c->data, 'query' => $r->query]);
    }
});
if ($config['ask'] ?? false) {
    $server->onHandshake(static fn (WsRequest $r): bool => true);
}
$server->onMessage(static function (WsConnection $c, string $data, bool $binary) use ($server, $echo): void {
    if ($binary || !str_starts_with($data, "\x01")) {
        if ($echo) {
            $c->send($data, $binary);
        }
        return;
    }
    $words = explode(' ', substr($data, 1));
    switch ($words[0]) {
        case 'sleep':
            say('blocked');
            sleep((int) $words[1]);
            say('unblocked');
            break;
        case 'burn':
            say('blocked');
            $end = hrtime(true) + (int) ((float) $words[1] * 1e9);
            while (hrtime(true) < $end);
            say('unblocked');
            break;
        case 'block':
            // until a line comes on stdin (config: wait)
            say('blocked');
            fgets(STDIN);
            say('unblocked');
            break;
        case 'publish':
        case 'each':
            // EVERY SIZE COUNT: to those who came with ?news; 'each' as a message of its own
            [$how, $every, $size, $count] = $words;
            $message = str_repeat('b', (int) $size);
            $timer = 0;
            $sent = 0;
            $timer = $server->every((float) $every, static function () use ($server, $how, $message, $count, &$timer, &$sent): void {
                if ($how === 'publish') {
                    $server->publish('news', $message, true);
                } else {
                    foreach ($server->members('news') as $member) {
                        $member->send($message, true);
                    }
                }
                if (++$sent === (int) $count) {
                    $server->cancel($timer);
                    say('published', ['count' => $sent]);
                }
            });
            say('publishing');
            break;
        case 'stats':
            say('stats', ['stats' => $server->stats(), 'php' => memory_get_usage()]);
            break;
        case 'throw':
            throw new LogicException('as ordered');
        case 'stop':
            $server->stop((float) $words[1]);
            break;
        default:
            say('unknown', ['order' => $data]);
    }
});
$server->onClose(static function (WsConnection $c, int $code, string $reason, bool $clean) use (&$open, $quiet): void {
    if ($c->data !== null && --$open[$c->data] === 0) {
        unset($open[$c->data]);
    }
    if (!$quiet) {
        say('close', ['id' => $c->id, 'client' => $c->data, 'code' => $code, 'reason' => $reason, 'clean' => $clean]);
    }
});
$server->onError(static function (Throwable $e): void {
    say('error', ['class' => $e::class, 'message' => $e->getMessage()]);
});

if ($config['wait'] ?? false) {
    say('waiting');
    fgets(STDIN);
}
$server->start();
say('listening', ['address' => $server->address(), 'pid' => getmypid()]);
$server->run();
// The handlers hold the server and it holds them: the collector has to see that.
unset($server);
say('stopped', ['collected' => gc_collect_cycles()]);
