--TEST--
A full outbox: error, dropOldest, dropNewest, block; expired and closed messages are reported
--EXTENSIONS--
lifeline
--FILE--
<?php
require __DIR__ . '/../inc/client.php';
$silent = new RawServer();
function client(string $policy, array $outbox = []): WsClient
{
    global $silent;
    $client = new WsClient($silent->url(), ['outbox' => ['limit' => 2, 'overflow' => $policy] + $outbox]);
    $client->onOverflow(function (int $sequence, string $data, string $why) {
        echo "overflow $sequence $data $why\n";
    });
    return $client;
}

echo "-- error\n";
$client = client('error');
$client->send('a');
$client->send('b');
echo preg_replace('/: .*/', '', thrown(fn () => $client->send('c'))), "\n";
$client->close();
$client->run();
var_dump($client->unacknowledged());

foreach (['dropOldest', 'dropNewest'] as $policy) {
    echo "-- $policy\n";
    $client = client($policy);
    foreach (['a', 'b', 'c'] as $data) {
        $client->send($data);
    }
    var_dump($client->unacknowledged());
    $client->close();
    $client->run();
}

echo "-- block: time over, other objects served meanwhile\n";
$other = serve();
$ticks = 0;
$other->every(0.005, function () use (&$ticks) { $ticks++; });
$client = client('block', ['blockTimeout' => 0.2]);
$client->sendMany(['a', 'b']);
$start = microtime(true);
echo thrown(fn () => $client->send('c')), "\n";
echo microtime(true) - $start >= 0.19 && $ticks > 0 ? "waited and served\n" : "did not wait ($ticks)\n";
$client->close();
$client->run();

echo "-- block: room\n";
$got = [];
$server = serve(['message' => function ($c, $data) use (&$got) { $got[] = $data; }]);
$client = new WsClient($server->address(), ['outbox' => ['limit' => 1, 'overflow' => 'block']]);
$client->connect();
for ($i = 1; $i <= 20; $i++) {
    $client->send("m$i");
}
$client->flush(10);
until($server, function () use (&$got) { return count($got) === 20; }, 'all messages');
echo $got === array_map(fn ($i) => "m$i", range(1, 20)) ? "all in order\n" : "wrong\n";
$client->close();
$client->run();

echo "-- ttl\n";
$client = client('error');
$client->send('short', false, 0.05);
$client->send('long', false, 60);
$client->connect();
until($client, fn () => $client->unacknowledged() === 1, 'the end of its time');
until($client, fn () => true);
$client->close();
$client->run();
--EXPECT--
-- error
WsOverflowException
overflow 1 a closed
overflow 2 b closed
int(0)
-- dropOldest
int(2)
overflow 1 a limit
overflow 2 b closed
overflow 3 c closed
-- dropNewest
int(2)
overflow 3 c limit
overflow 1 a closed
overflow 2 b closed
-- block: time over, other objects served meanwhile
WsTimeoutException: the outbox was full for 0.2 s (outbox.overflow 'block', outbox.blockTimeout)
waited and served
overflow 1 a closed
overflow 2 b closed
-- block: room
all in order
-- ttl
overflow 1 short expired
overflow 2 long closed
