<?php
// The echo server under test. Prints its address and serves until it is told to stop.
// Usage: server.php ws|wss deflate|plain [cert key]
declare(strict_types=1);

const MIB = 1 << 20;

[, $scheme, $compression] = $argv;
pcntl_async_signals(true);
$options = [
    // 9.1.6 and 9.2.6 send one message of 16 MiB.
    'limits' => ['maxMessage' => 16 * MIB, 'maxFrame' => 16 * MIB, 'inbound' => 32 * MIB],
    'send' => ['limit' => 64 * MIB],
];
if ($scheme === 'wss') {
    $options['tls'] = ['cert' => $argv[3], 'key' => $argv[4]];
}
if ($compression === 'deflate') {
    // Each message is compressed, also one of 16 bytes, and what the peer asks for is granted.
    $options['compression'] = ['threshold' => 0, 'contextTakeover' => true];
}
$server = new WsServer("$scheme://127.0.0.1:0", $options);
$server->onMessage(function (WsConnection $c, string $data, bool $binary): void {
    $c->send($data, $binary);
});
foreach ([SIGTERM, SIGINT] as $signal) {
    pcntl_signal($signal, fn () => $server->stop(0));
}
$server->start();
echo 'READY ', $server->address(), "\n";
$server->run();
