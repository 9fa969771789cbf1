--TEST--
limits.maxConnections, perIp, maxHeaderBytes, handshakeTimeout; idle.evict makes room
--EXTENSIONS--
lifeline
--FILE--
<?php
require __DIR__ . '/../inc/ws.php';
function status(WsServer $server, array $headers = []): array
{
    $peer = new Peer($server->address(), '/', $headers);
    return [explode(' ', $peer->head($server))[1] ?? 'none', $peer];
}
foreach (['maxConnections', 'perIp'] as $limit) {
    $server = serve([], ['limits' => [$limit => 2]]);
    [$one, $two] = [Peer::open($server), Peer::open($server)];
    [$code, $refused] = status($server);
    echo "$limit: $code ", stripos($refused->head, "\r\nRetry-After: ") ? 'with' : 'without', " Retry-After\n";
    $one->cut();
    pump($server, fn () => count($server) === 1, 'the end');
    // The place is free a moment after the event.
    $end = microtime(true) + LIMIT;
    do {
        [$code, $third] = status($server);
    } while ($code !== '101' && microtime(true) < $end);
    echo "$limit: $code\n";
}
$server = serve(['close' => function (WsConnection $c, int $code) use (&$evicted) { $evicted = [$c->id, $code]; }],
    ['limits' => ['maxConnections' => 2], 'idle' => ['evict' => true]]);
[$one, $two] = [Peer::open($server), Peer::open($server)];
$idle = [...$server->connections()][1]->id;
$one->text('busy');
pump($server, fn () => $server->stats()['messages']['in'] === 1, 'the message');
[$code, $third] = status($server);
pump($server, function () use (&$evicted, $two) {
    while ($frame = $two->poll('frame')) { $frame[0] === 0x88 && $two->close(); }
    return $evicted !== null;
}, 'the eviction');
echo "evict: $code, ", $evicted[0] === $idle ? 'the idle one' : 'the busy one', " with $evicted[1]\n";
$server = serve([], ['limits' => ['maxHeaderBytes' => 1000]]);
echo 'header: ', status($server, ['X: ' . str_repeat('x', 500)])[0], ' ', status($server, ['X: ' . str_repeat('x', 1000)])[0], "\n";
$server = serve([], ['limits' => ['handshakeTimeout' => 0.1]]);
$socket = stream_socket_client(str_replace('ws:', 'tcp:', $server->address()), $code, $message, LIMIT);
stream_set_timeout($socket, (int) LIMIT);
fwrite($socket, "GET / HTTP/1.1\r\nHost: a\r\n");
stream_get_contents($socket);
echo 'handshake: ', feof($socket) && !stream_get_meta_data($socket)['timed_out'] ? 'ended' : 'still open', "\n";
?>
--EXPECT--
maxConnections: 503 with Retry-After
maxConnections: 101
perIp: 503 with Retry-After
perIp: 101
evict: 101, the idle one with 4006
header: 101 431
handshake: ended
