<?php
// A server that other programs drive. Gets its configuration as JSON in the first argument:
//   listen, options  as the constructor takes them
//   handshake        what onHandshake returns (absent: no callback)
// Writes what happens as lines of JSON; a line of JSON on stdin is a command:
//   {"op":"broadcast","data":"x"} {"op":"stats"} {"op":"stop","drain":1}
// Echoes messages, but for those that start with a word it knows.
declare(strict_types=1);

function emit(string $event, array $fields = []): void
{
    fwrite(STDOUT, json_encode(['event' => $event] + $fields, JSON_INVALID_UTF8_SUBSTITUTE) . "\n");
}

$config = json_decode($argv[1], true, flags: JSON_THROW_ON_ERROR);
$logger = fn (string $level, string $message) => emit('log', ['level' => $level, 'message' => $message]);
$server = new WsServer($config['listen'] ?? 'ws://127.0.0.1:0', ($config['options'] ?? []) + ['logger' => $logger]);
if (array_key_exists('handshake', $config)) {
    $server->onHandshake(fn (WsRequest $r): bool|int|array => $config['handshake']);
}
$server->onOpen(function (WsConnection $c, WsRequest $r): void {
    emit('open', [
        'id' => $c->id,
        'path' => $c->path,
        'protocol' => $c->protocol,
        'remote' => $c->remoteAddress,
        'origin' => $r->origin,
    ]);
});
$server->onMessage(function (WsConnection $c, string $data, bool $binary): void {
    $words = explode(' ', substr($data, 0, 200), 3);
    match ($binary ? '' : $words[0]) {
        'close' => $c->close((int) $words[1], $words[2] ?? ''),
        'abort' => $c->abort(),
        'join' => $c->subscribe($words[1]),
        'stats' => $c->send(json_encode($c->stats())),
        'rtt' => $c->send(json_encode($c->rtt())),
        // Blocks the whole of PHP: nothing is dispatched meanwhile.
        'block' => (function () use ($c, $words): void {
            $until = microtime(true) + (float) $words[1];
            while (microtime(true) < $until) {
                usleep(10_000);
            }
            $c->send('awake');
        })(),
        default => $c->send($data, $binary),
    };
});
$server->onClose(function (WsConnection $c, int $code, string $reason, bool $clean): void {
    emit('close', ['id' => $c->id, 'code' => $code, 'reason' => $reason, 'clean' => $clean]);
});
$server->onError(function (Throwable $e): void {
    emit('error', ['message' => $e->getMessage()]);
});
$server->start();
emit('ready', ['address' => $server->address()]);

$running = true;
$command = function (array $c) use ($server, &$running): void {
    switch ($c['op']) {
        case 'broadcast':
            emit('sent', ['count' => $server->broadcast($c['data'])]);
            break;
        case 'publish':
            emit('sent', ['count' => $server->publish($c['channel'], $c['data'])]);
            break;
        case 'stats':
            emit('stats', ['stats' => $server->stats()]);
            break;
        case 'stop':
            $server->stop($c['drain'] ?? 1.0);
            $running = false;
            break;
    }
};
stream_set_blocking(STDIN, false);
$pending = '';
$stream = $server->stream();
while ($running) {
    $read = [STDIN, $stream];
    $write = $except = null;
    if (!stream_select($read, $write, $except, 60)) {
        continue;
    }
    $server->poll();
    if (in_array(STDIN, $read, true)) {
        $chunk = fread(STDIN, 65536);
        if ($chunk === '' && feof(STDIN)) {
            $command(['op' => 'stop', 'drain' => 0]);
        }
        $pending .= $chunk;
        while (($end = strpos($pending, "\n")) !== false) {
            $command(json_decode(substr($pending, 0, $end), true, flags: JSON_THROW_ON_ERROR));
            $pending = substr($pending, $end + 1);
        }
    }
}
$server->run();
emit('end');
