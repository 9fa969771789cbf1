<?php
// A server with workers and an admin listener. `ready` is told by the gateway when they serve; a message `exit` ends the worker that gets it.
declare(strict_types=1);
require __DIR__ . '/lines.php';

$server = new WsServer('ws://127.0.0.1:0', ['admin' => '127.0.0.1:0', 'workers' => 2]);
$server->onMessage(function (WsConnection $c, string $data): void {
    if ($data === 'exit') {
        exit(7);
    }
    $c->send($data);
});
$server->start();
if (getenv('LIFELINE_WORKER') === false) {
    tell('ready', ['address' => $server->address(), 'admin' => $server->stats()['admin'], 'pid' => getmypid()]);
}
$server->run();
