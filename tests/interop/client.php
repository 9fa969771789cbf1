<?php
// A client that other programs drive. Gets {"url":…,"options":…} as JSON in the first argument.
// Writes what happens as lines of JSON; a line of JSON on stdin is a command:
//   {"op":"send","data":"x"} {"op":"send","hex":"00ff"} {"op":"close","code":1000,"reason":""}
//   {"op":"block","seconds":2} {"op":"stats"}
declare(strict_types=1);

function emit(string $event, array $fields = []): void
{
    fwrite(STDOUT, json_encode(['event' => $event] + $fields, JSON_INVALID_UTF8_SUBSTITUTE) . "\n");
}

$config = json_decode($argv[1], true, flags: JSON_THROW_ON_ERROR);
$client = new WsClient($config['url'], $config['options'] ?? []);
$client->onOpen(fn () => emit('open'));
$client->onMessage(function (WsClient $c, string $data, bool $binary): void {
    emit('message', $binary ? ['hex' => bin2hex($data)] : ['data' => $data]);
});
$client->onClose(function (WsClient $c, int $code, string $reason, bool $clean): void {
    emit('close', ['code' => $code, 'reason' => $reason, 'clean' => $clean]);
});
$client->onStateChange(function (WsTransition $t): void {
    emit('state', [
        'from' => $t->from->value,
        'to' => $t->to->value,
        'code' => $t->code,
        'reason' => $t->reason,
        'attempt' => $t->attempt,
        'delay' => $t->delay,
    ]);
});
$client->onError(function (Throwable $e): void {
    emit('error', ['class' => $e::class, 'message' => $e->getMessage()]);
});
$client->connect();

$running = true;
$command = function (array $c) use ($client): void {
    switch ($c['op']) {
        case 'send':
            $binary = isset($c['hex']);
            emit('sent', ['sequence' => $client->send($binary ? hex2bin($c['hex']) : $c['data'], $binary)]);
            break;
        case 'close':
            $client->close($c['code'] ?? 1000, $c['reason'] ?? '');
            break;
        case 'block':
            $until = microtime(true) + $c['seconds'];
            while (microtime(true) < $until) {
                usleep(10_000);
            }
            emit('awake');
            break;
        case 'stats':
            emit('stats', ['stats' => $client->stats()]);
            break;
    }
};
stream_set_blocking(STDIN, false);
$pending = '';
$stream = $client->stream();
while ($client->state() !== WsState::Closed) {
    $read = [STDIN, $stream];
    $write = $except = null;
    if (!stream_select($read, $write, $except, 60)) {
        continue;
    }
    $client->poll();
    if (in_array(STDIN, $read, true)) {
        $chunk = fread(STDIN, 65536);
        if ($chunk === '' && feof(STDIN)) {
            break;
        }
        $pending .= $chunk;
        while (($end = strpos($pending, "\n")) !== false) {
            $command(json_decode(substr($pending, 0, $end), true, flags: JSON_THROW_ON_ERROR));
            $pending = substr($pending, $end + 1);
        }
    }
}
if ($client->state() === WsState::Closed) {
    // What follows the last transition.
    $client->run();
}
emit('end');
