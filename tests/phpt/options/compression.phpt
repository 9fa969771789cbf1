--TEST--
compression: permessage-deflate, both ends, told by stats(), declined for a connection
--EXTENSIONS--
lifeline
--FILE--
<?php
require __DIR__ . '/../inc/client.php';

/** What the two agree on and count, after two echoes of 20 kB and one of 5 bytes. */
function talk(bool|array $server, bool|array $client, bool|array|null $answer = null, array $protocols = []): array
{
    $callbacks = $answer === null ? [] : ['handshake' => fn () => $answer];
    $server = echo_server($callbacks, ['compression' => $server]);
    $url = $server->address();
    $client = new WsClient($url, ['compression' => $client, 'protocols' => $protocols]);
    $got = [];
    $client->onMessage(function ($c, $data) use (&$got) { $got[] = $data; });
    $client->connect();
    $sent = [str_repeat('compress me ', 1700), 'short', str_repeat('compress me ', 1700)];
    array_map(fn ($data) => $client->send($data), $sent);
    until($client, function () use (&$got) { return count($got) === 3; }, 'echoes');
    [$connection] = [...$server->connections()];
    $stats = ['server' => $server->stats()['compression'], 'connection' => $connection->stats()['compression'],
        'client' => $client->stats()['compression']];
    if ($got !== $sent) {
        echo "echoes came back changed\n";
    }
    $client->close();
    until($client, fn () => $client->state() === WsState::Closed, 'the end');
    $server->stop(0);
    return $stats;
}

foreach ([[true, true, null], [false, true, null], [true, false, null], [true, true, ['compression' => false]],
    [true, true, ['compression' => true]], [['contextTakeover' => true, 'level' => 9], ['contextTakeover' => true, 'windowBits' => 10], null],
    [['threshold' => 500], ['threshold' => 500], null]] as [$server, $client, $answer]) {
    foreach ([[], ['lifeline.v1']] as $protocols) {
        $stats = talk($server, $client, $answer, $protocols);
        echo json_encode($stats['client']['agreed']), ' ';
        echo $stats['connection'] === null ? 'null' : (int) ($stats['connection']['agreed'] === $stats['client']['agreed']), ' ';
        echo json_encode([$stats['server']['connections'], $stats['server']['messages'], $stats['client']['messages']]), ' ';
        ['in' => $in, 'out' => $out] = $stats['server']['ratio'];
        echo $in === null ? 'null' : (int) ($in < 0.05), ' ', $out === null ? 'null' : (int) ($out < 0.05), "\n";
    }
}
$threshold = talk(['threshold' => 100], ['threshold' => 50000]);
echo json_encode([$threshold['server']['messages'], $threshold['server']['bytes'], $threshold['client']['bytes']]), "\n";
echo thrown(fn () => new WsClient('ws://a:1', ['compression' => ['level' => 0]])), "\n";
$told = [];
$server = serve(['handshake' => fn () => ['compression' => 1], 'error' => function ($e) use (&$told) { $told[] = $e->getMessage(); }]);
$client = new WsClient($server->address(), ['reconnect' => ['maxAttempts' => 1]]);
$client->onError(fn () => null);
$client->connect();
until($client, function () use (&$told) { return $told !== []; }, 'the error');
echo $told[0], "\n";
?>
--EXPECT--
"permessage-deflate; server_no_context_takeover; client_no_context_takeover" 1 [1,{"in":2,"out":2},{"in":2,"out":2}] 1 1
"permessage-deflate; server_no_context_takeover; client_no_context_takeover" 1 [1,{"in":2,"out":2},{"in":2,"out":2}] 1 1
null null [0,{"in":0,"out":0},{"in":0,"out":0}] null null
null null [0,{"in":0,"out":0},{"in":0,"out":0}] null null
null null [0,{"in":0,"out":0},{"in":0,"out":0}] null null
null null [0,{"in":0,"out":0},{"in":0,"out":0}] null null
null null [0,{"in":0,"out":0},{"in":0,"out":0}] null null
null null [0,{"in":0,"out":0},{"in":0,"out":0}] null null
"permessage-deflate; server_no_context_takeover; client_no_context_takeover" 1 [1,{"in":2,"out":2},{"in":2,"out":2}] 1 1
"permessage-deflate; server_no_context_takeover; client_no_context_takeover" 1 [1,{"in":2,"out":2},{"in":2,"out":2}] 1 1
"permessage-deflate; server_max_window_bits=10; client_max_window_bits=10" 1 [1,{"in":2,"out":2},{"in":2,"out":2}] 1 1
"permessage-deflate; server_max_window_bits=10; client_max_window_bits=10" 1 [1,{"in":2,"out":2},{"in":2,"out":2}] 1 1
"permessage-deflate; server_no_context_takeover; client_no_context_takeover" 1 [1,{"in":2,"out":2},{"in":2,"out":2}] 1 1
"permessage-deflate; server_no_context_takeover; client_no_context_takeover" 1 [1,{"in":2,"out":2},{"in":2,"out":2}] 1 1
[{"in":0,"out":2},{"in":0,"out":40800},{"in":40800,"out":0}]
ValueError: WsClient: option 'compression.level' must be between 1 and 9, 0 given
onHandshake must return 'compression' as bool, int returned
