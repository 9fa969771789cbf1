<?php
// Chat rooms by path, and an echo on /echo. Open chat.html in a browser, or run client.php.
//   php examples/chat.php [ws://127.0.0.1:8080]
declare(strict_types=1);

pcntl_async_signals(true);

$server = new WsServer($argv[1] ?? 'ws://127.0.0.1:8080', [
    'healthPath' => '/health',
    // The page may be opened from anywhere, also from a file.
    'origins' => 'any',
    'limits' => ['maxMessage' => 64 * 1024, 'messageRate' => 50],
]);

$say = fn (string $room, array $message) => $server->publish($room, json_encode($message));

$server->onOpen(function (WsConnection $c, WsRequest $r) use ($say): void {
    $c->data = substr((string) ($r->query['name'] ?? ''), 0, 30) ?: "guest-{$c->id}";
    echo "{$c->data} came to {$c->path} from {$c->remoteAddress}", PHP_EOL;
    if ($c->path !== '/echo') {
        $c->subscribe($c->path);
        $say($c->path, ['from' => '*', 'text' => "{$c->data} has joined"]);
    }
});
$server->onMessage(function (WsConnection $c, string $data, bool $binary) use ($say): void {
    if ($c->path === '/echo') {
        $c->send($data, $binary);
    } else {
        $say($c->path, ['from' => $c->data, 'text' => $data]);
    }
});
$server->onClose(function (WsConnection $c, int $code) use ($say): void {
    echo "{$c->data} left {$c->path} ($code)", PHP_EOL;
    if ($c->path !== '/echo') {
        $say($c->path, ['from' => '*', 'text' => "{$c->data} has left"]);
    }
});
foreach ([SIGINT, SIGTERM] as $signal) {
    pcntl_signal($signal, fn () => $server->stop(1.0));
}

$server->start();
$address = $server->address();
echo "Chat on $address/lobby (any path is a room), echo on $address/echo. Ctrl-C stops it.", PHP_EOL;
$server->run();
