--TEST--
An outbox on disk: the next client sends what is left; one owner; close() keeps; the log is emptied
--EXTENSIONS--
lifeline
--FILE--
<?php
require __DIR__ . '/../inc/client.php';
require __DIR__ . '/../inc/durable.php';
$server = collector($got);
foreach (['always', 'interval', 'spill'] as $durability) {
    echo "-- $durability\n";
    $got = [];
    $directory = outbox_directory();
    $options = ['protocols' => [], 'outbox' => ['path' => $directory, 'durability' => $durability]] + FAST;

    $client = new WsClient('ws://127.0.0.1:1', $options);
    $client->onOverflow(function () { echo "overflow\n"; });
    echo $client->send('one'), ' ', $client->sendMany(['two', "three\xff", 'four'], true), "\n";
    $second = new WsClient($server->address(), $options);
    $message = thrown(fn () => $second->send('x'));
    var_dump(str_starts_with($message, "WsStorageException: outbox.path: $directory is in use by this process (" . getmypid() . ')') ?: $message);
    $client->close();
    $client->run();

    $client = new WsClient($server->address(), $options);
    $client->connect();
    var_dump($client->flush(10));
    arrived($server, $got, 4);
    var_dump($got === ['one', 'two', "three\xff", 'four']);
    echo $client->send('five'), "\n";
    var_dump($client->flush(10), $client->unacknowledged());
    arrived($server, $got, 5);
    $client->close();
    $client->run();

    $client = new WsClient($server->address(), $options);
    $client->connect();
    var_dump($client->flush(10), $client->unacknowledged(), $client->send('six'), $client->flush(10));
    arrived($server, $got, 6);
    echo implode(' ', array_slice($got, 4)), "\n";
    // Nothing is left of it on disk.
    until($client, function () use ($directory) {
        clearstatcache();
        return array_sum(array_map(filesize(...), glob("$directory/*.log"))) < 300_000;
    });
    $client->close();
    $client->run();
}
echo "-- dropped\n";
$got = [];
$options = ['protocols' => [], 'outbox' => ['path' => outbox_directory()]];
for ($i = 1; $i <= 5; $i++) {
    $client = new WsClient($i === 5 ? $server->address() : 'ws://127.0.0.1:1', $options);
    $client->connect();
    echo $client->send("$i"), "\n";
    if ($i === 5) { $client->flush(10); }
    unset($client);
}
arrived($server, $got, 5);
echo implode(' ', $got), "\n";
echo "-- commits\n";
$client = new WsClient('ws://127.0.0.1:1', ['outbox' => ['path' => outbox_directory()]]);
$client->send('x');
$before = $client->stats()['outbox']['fsyncs'];
for ($i = 0; $i < 10; $i++) { $client->send('x'); }
$single = $client->stats()['outbox']['fsyncs'];
$client->sendMany(array_fill(0, 100, 'x'));
$stats = $client->stats()['outbox'];
var_dump($single - $before, $stats['fsyncs'] - $single, $stats['bytesOnDisk'] > 0, $stats['messages']);
?>
--EXPECT--
-- always
1 4
bool(true)
bool(true)
bool(true)
5
bool(true)
int(0)
bool(true)
int(0)
int(6)
bool(true)
five six
-- interval
1 4
bool(true)
bool(true)
bool(true)
5
bool(true)
int(0)
bool(true)
int(0)
int(6)
bool(true)
five six
-- spill
1 4
bool(true)
bool(true)
bool(true)
5
bool(true)
int(0)
bool(true)
int(0)
int(6)
bool(true)
five six
-- dropped
1
2
3
4
5
1 2 3 4 5
-- commits
int(10)
int(1)
bool(true)
int(111)
