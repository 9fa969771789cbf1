<?php
// A server as one writes it for production: stops on SIGTERM, and lets its connections go within a second or so.
//   service.php [JSON of listen, options, drain, log]
// Answers with its process id; or, with a log, writes there what it gets and echoes it.
declare(strict_types=1);

$config = json_decode($argv[1] ?? '{}', true, flags: JSON_THROW_ON_ERROR);
$server = new WsServer($config['listen'] ?? 'ws://127.0.0.1:0', $config['options'] ?? []);
$log = isset($config['log']) ? fopen($config['log'], 'a') : null;
$server->onMessage(function (WsConnection $c, string $data, bool $binary, WsMessage $m) use ($log): void {
    if ($log) {
        fwrite($log, "$m->id $data\n");
    }
    $c->send($log ? $data : "$data from " . getmypid());
});
$server->onClose(function (WsConnection $c, int $code): void {
    echo "closed $code\n";
});
pcntl_async_signals(true);
pcntl_signal(SIGTERM, fn () => $server->stop($config['drain'] ?? 1));
$server->start();
echo 'listens on ', $server->address(), ' as ', getmypid(), "\n";
$server->run();
echo "drained\n";
