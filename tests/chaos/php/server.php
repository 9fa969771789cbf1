<?php
// An echo server that takes orders: a text message that starts with the character 1.
//   config: listen, options, quiet (no events for opens and closes), echo (default true),
//   wait (bind when a line has come on stdin), ask (decide on handshakes, for all),
//   of lifeline.v1: auth (token => user; without it all are let in), subscribe (channels that begin so may be
//   subscribed to), document (its channel), defaultLog (no logger, no onError), trace (all connections),
//   choose (a subprotocol that nobody offers)

declare(strict_types=1);

require __DIR__ . '/common.php';

$config = config();
$quiet = $config['quiet'] ?? false;
$echo = $config['echo'] ?? true;

// Connections open now, by the id in the query.
$open = [];
$options = $config['options'] ?? [];
$defaultLog = $config['defaultLog'] ?? false;
if (!$defaultLog) {
    $options['logger'] = static fn (string $level, string $message, array $context) => say('log', ['level' => $level, 'message' => $message, 'context' => $context]);
}
$server = new WsServer($config['listen'] ?? 'ws://127.0.0.1:0', $options);

$server->onOpen(static function (WsConnection $c, WsRequest $r) use (&$open, $quiet, $config): void {
    $c->data = $r->query['id'] ?? null;
    if ($config['trace'] ?? false) {
        $c->trace(true);
    }
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
if (isset($config['auth'])) {
    $users = $config['auth'];
    $server->onAuth(static fn (WsRequest $r, #[SensitiveParameter] ?string $token): array|false => isset($users[$token]) ? ['user' => $users[$token]] : false);
}
if (isset($config['subscribe'])) {
    $prefix = $config['subscribe'];
    $server->onSubscribe(static fn (WsConnection $c, string $channel): bool => str_starts_with($channel, $prefix));
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
        case 'fill':
            // SIZE COUNT: to each session
            $message = str_repeat('s', (int) $words[1]);
            foreach ($server->connections() as $connection) {
                for ($n = $connection->session === null ? (int) $words[2] : 0; $n < (int) $words[2]; $n++) {
                    $connection->send($message);
                }
            }
            say('filled');
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
if (isset($config['choose'])) {
    $server->onHandshake(static fn (WsRequest $r): array|bool => $r->protocols === [] || in_array('lifeline.v1', $r->protocols, true) ? true : ['protocol' => $config['choose']]);
}
if (!$defaultLog) {
    $server->onError(static function (Throwable $e): void {
        say('error', ['class' => $e::class, 'message' => $e->getMessage()]);
    });
}

if ($config['wait'] ?? false) {
    say('waiting');
    fgets(STDIN);
}
$server->start();
if (isset($config['document'])) {
    $document = $server->document($config['document'], $config['documentOptions'] ?? []);
}
say('listening', ['address' => $server->address(), 'pid' => getmypid()]);
$server->run();
// The handlers hold the server and it holds them: the collector has to see that.
unset($server, $document);
say('stopped', ['collected' => gc_collect_cycles()]);
