<?php
// The echo server under test. Prints its address and serves until it is told to stop.
declare(strict_types=1);

const MIB = 1 << 20;

pcntl_async_signals(true);
$server = new WsServer('ws://127.0.0.1:0', [
    // 9.1.6 and 9.2.6 send one message of 16 MiB.
    'limits' => ['maxMessage' => 16 * MIB, 'maxFrame' => 16 * MIB, 'inbound' => 32 * MIB],
    'send' => ['limit' => 64 * MIB],
]);
$server->onMessage(function (WsConnection $c, string $data, bool $binary): void {
    $c->send($data, $binary);
});
foreach ([SIGTERM, SIGINT] as $signal) {
    pcntl_signal($signal, fn () => $server->stop(0));
}
$server->start();
echo 'READY ', $server->address(), "\n";
$server->run();
