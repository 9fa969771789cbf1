--TEST--
heartbeat.mode, preset, adaptive and missedLimit, idle.timeout: what a silent peer sees
--EXTENSIONS--
lifeline
--FILE--
<?php
require __DIR__ . '/../inc/ws.php';
/** What a peer that answers nothing but a close frame gets, up to the end. */
function seen(array $options): string
{
    $server = serve(['close' => function ($c, int $code, string $reason, bool $clean) use (&$closed) { $closed = "$code " . var_export($clean, true); }], $options);
    $peer = Peer::open($server);
    $words = [];
    pump($server, function () use ($peer, &$words, &$closed) {
        while ($frame = $peer->poll('frame')) {
            $words[] = sprintf('%02x', $frame[0]);
            if ($frame[0] === 0x88) { $peer->close(); }
        }
        return isset($closed);
    }, 'the close');
    return implode(' ', $words) . " | $closed";
}
$quick = ['interval' => 0.05, 'timeout' => 0.05];
foreach ([1, 3] as $limit) {
    echo "missedLimit $limit: ", seen(['heartbeat' => $quick + ['missedLimit' => $limit]]), "\n";
}
echo 'fixed: ', seen(['heartbeat' => $quick + ['mode' => 'fixed']]), "\n";
echo 'passive: ', seen(['heartbeat' => $quick + ['mode' => 'passive']]), "\n";
echo 'idle: ', seen(['heartbeat' => ['mode' => 'off'], 'idle' => ['timeout' => 0.1]]), "\n";
/** Frames of the first 0.4 s, in which nothing ends. */
function beats(array $heartbeat): int
{
    $server = serve(['close' => fn () => print("closed\n")], ['heartbeat' => $heartbeat]);
    $peer = Peer::open($server);
    $end = microtime(true) + 0.4;
    for ($count = 0; microtime(true) < $end; $server->poll(0.01)) {
        while ($peer->poll('frame')) { $count++; }
    }
    return $count;
}
echo 'off: ', beats($quick + ['mode' => 'off']), "\n";
echo 'keepalive: ', beats($quick + ['mode' => 'keepalive']) >= 2 ? 'beats' : 'none', "\n";
echo 'preset: ', beats(['preset' => 'nginx']), ' ', beats(['preset' => 'nginx', 'interval' => 0.05]) >= 1 ? 'overruled' : 'kept', "\n";
echo 'adaptive: ', beats(['adaptive' => [0.05, 0.2, 0.05]]) >= 1 ? 'beats' : 'none', "\n";
?>
--EXPECT--
missedLimit 1: 89 | 4001 false
missedLimit 3: 89 89 89 | 4001 false
fixed: 89 | 4001 false
passive:  | 4001 false
idle: 88 | 4006 true
off: 0
keepalive: beats
preset: 0 overruled
adaptive: beats
