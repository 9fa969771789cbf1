--TEST--
A server that goes and comes back: nothing that was not written is lost, one connection at a time
--EXTENSIONS--
lifeline
--FILE--
<?php
require __DIR__ . '/../inc/client.php';
$got = [];
$most = 0;
$callbacks = [
    'message' => function (WsConnection $c, string $data) use (&$got) { $got[] = $data; },
];
$server = serve($callbacks);
$address = $server->address();
$client = new WsClient($address, FAST);
$client->onStateChange(function (WsTransition $t) use (&$path) { $path[] = $t->to->value; });
$client->send('1');
$client->connect();
until($client, function () use (&$got) { return count($got) === 1; }, 'the first message');
for ($round = 2; $round <= 4; $round++) {
    $server->stop(0);
    until($client, fn () => $client->state() !== WsState::Connected, 'the loss');
    $client->send((string) $round);
    until($client, fn () => $client->unacknowledged() === 1, 'the message to wait');
    unset($server);
    $server = new WsServer($address);
    foreach ($callbacks as $event => $callback) {
        $server->on($event, $callback);
    }
    $end = microtime(true) + LIMIT;
    while (true) {
        try {
            $server->start();
            break;
        } catch (WsConnectException $e) {
            if (microtime(true) > $end) {
                throw $e;
            }
            $client->poll(0.01);
            $server = serve($callbacks, [], $address);
            break;
        }
    }
    until($client, function () use (&$got, $round) { return count($got) === $round; }, "message $round");
    $most = max($most, count($server));
}
echo implode(' ', $got), " $most\n";
var_dump($client->stats() !== []);
$client->close();
$client->run();
--EXPECT--
1 2 3 4 1
bool(true)
