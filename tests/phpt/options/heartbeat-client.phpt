--TEST--
heartbeat.mode of a client: passive listens only, keepalive beats and never ends, off does nothing
--EXTENSIONS--
lifeline
--FILE--
<?php
require __DIR__ . '/../inc/client.php';
/** Frames that a silent server gets in 0.4 s, and what the client was told. */
function seen(array $heartbeat): string
{
    $raw = new RawServer();
    $client = new WsClient($raw->url(), ['heartbeat' => $heartbeat + ['interval' => 0.05, 'timeout' => 0.05], 'reconnect' => ['first' => 1000]]);
    $closed = 'open';
    $client->onClose(function ($c, int $code) use (&$closed) { $closed = "closed $code"; });
    $client->connect();
    [$socket] = $raw->upgrade();
    $end = microtime(true) + ($heartbeat['mode'] === 'passive' || $heartbeat['mode'] === 'fixed' ? LIMIT : 0.4);
    while ($closed === 'open' && microtime(true) < $end) {
        $client->poll(0.01);
    }
    stream_set_blocking($socket, false);
    $bytes = (string) fread($socket, 1000);
    $client->close();
    return ($bytes === '' ? 'nothing' : dechex(ord($bytes[0]))) . ", $closed";
}
foreach (['fixed', 'keepalive', 'passive', 'off'] as $mode) {
    echo "$mode: ", seen(['mode' => $mode]), "\n";
}
--EXPECT--
fixed: 89, closed 4001
keepalive: 89, open
passive: nothing, closed 4001
off: nothing, open
