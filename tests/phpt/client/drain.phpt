--TEST--
onDrain: the outbox was more than half full and has fallen to a quarter, once each time
--EXTENSIONS--
lifeline
--FILE--
<?php
require __DIR__ . '/../inc/client.php';
$got = 0;
$server = serve(['message' => function () use (&$got) { $got++; }]);
foreach (['limit' => fn () => 'x', 'bytes' => fn () => str_repeat('x', 1)] as $option => $data) {
    $drained = 0;
    $client = new WsClient($server->address(), ['outbox' => [$option => 8]]);
    $client->onDrain(function (WsClient $c) use (&$drained, $client) {
        echo $c === $client && $c->unacknowledged() <= 2 ? "drained\n" : "wrong\n";
        $drained++;
    });
    for ($round = 1; $round <= 2; $round++) {
        for ($i = 0; $i < 4; $i++) {
            $client->send($data());
        }
        if ($round === 1) {
            $client->poll(0.05); // half full is not more than half full
            for ($i = 0; $i < 4; $i++) {
                $client->send($data());
            }
            $client->connect();
            until($client, function () use (&$drained) { return $drained === 1; }, 'the outbox to drain');
        }
        var_dump($client->flush(10));
        $client->poll(0.05);
    }
    echo "$option $drained\n";
    $client->close();
    $client->run();
}
until($server, function () use (&$got) { return $got === 24; }, 'all messages');
--EXPECT--
drained
bool(true)
bool(true)
limit 1
drained
bool(true)
bool(true)
bytes 1
