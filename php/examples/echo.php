<?php
// Sends back what it gets.
//   php examples/echo.php [ws://127.0.0.1:8080]
declare(strict_types=1);

$server = new WsServer($argv[1] ?? 'ws://127.0.0.1:8080');
$server->onMessage(function (WsConnection $c, string $data, bool $binary): void {
    $c->send($data, $binary);
});
$server->start();
echo 'Listening on ', $server->address(), PHP_EOL;
$server->run();
