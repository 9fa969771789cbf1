<?php
// A server with workers, as one writes it for production; workers fail while there is the file `broken`, and wait until there
// is the file `gate`.
//   workers.php [JSON of options, broken, gate]
declare(strict_types=1);

$config = json_decode($argv[1] ?? '{}', true, flags: JSON_THROW_ON_ERROR);
if (getenv('LIFELINE_WORKER') !== false && is_file($config['broken'] ?? '')) {
    throw new RuntimeException('no database today');
}
while (getenv('LIFELINE_WORKER') !== false && isset($config['gate']) && !is_file($config['gate'])) {
    usleep(10_000);
    clearstatcache();
}
$server = new WsServer('ws://127.0.0.1:0', $config['options'] ?? []);
$server->onMessage(fn (WsConnection $c, string $data) => $c->send("$data from " . getmypid()));
$server->start();
if (getenv('LIFELINE_WORKER') === false) {
    echo 'listens on ', $server->address(), ' as ', getmypid(), "\n";
}
$server->run();
