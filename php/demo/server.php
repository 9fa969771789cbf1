<?php
// The server of `make run`: answers each message with the same one. Two commands make it busy:
//   {"block": 5}              the callback blocks all of this process's PHP for 5 s
//   {"block": 3, "who": "x"}  passes the command on to the client named x
// Writes what it sees as lines of JSON.
declare(strict_types=1);

pcntl_async_signals(true);

$emit = function (string $event, array $fields = []): void {
    fwrite(STDOUT, json_encode(['event' => $event] + $fields) . "\n");
};
$server = new WsServer($argv[1], [
    // `fixed` beats under traffic too, so that there is something to see.
    'heartbeat' => ['mode' => 'fixed', 'interval' => 1.0, 'timeout' => 1.0],
    'watchdog' => ['lag' => 3],
    'logger' => fn (string $level, string $message) => $emit('log', ['level' => $level, 'message' => $message]),
]);
$server->onOpen(function (WsConnection $c) use ($emit): void {
    $c->bind(ltrim($c->path, '/'));
    $emit('open', ['who' => $c->user]);
});
$server->onMessage(function (WsConnection $c, string $data) use ($server, $emit): void {
    $command = json_decode($data, true);
    if (!isset($command['block'])) {
        $c->send($data);
    } elseif (isset($command['who'])) {
        $server->sendToUser($command['who'], $data);
    } else {
        $emit('blocked', ['seconds' => $command['block']]);
        $until = microtime(true) + $command['block'];
        while (microtime(true) < $until) {
            usleep(20_000);
        }
        $emit('awake');
    }
});
$server->onClose(function (WsConnection $c, int $code, string $reason, bool $clean) use ($emit): void {
    $emit('close', ['who' => $c->user, 'code' => $code, 'reason' => $reason, 'clean' => $clean]);
});
pcntl_signal(SIGTERM, fn () => $server->stop(0.5));
$server->start();
$emit('ready', ['address' => $server->address()]);
$server->run();
