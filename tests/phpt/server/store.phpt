--TEST--
store file://: sessions, their values and messages, channels and marks survive kill -9 and a restart of the server
--EXTENSIONS--
lifeline
--FILE--
<?php
require __DIR__ . '/../inc/client.php';
require __DIR__ . '/../inc/durable.php';
$code = <<<'PHP'
    [, $listen, $directory] = $argv;
    $server = new WsServer($listen, ['store' => "file://$directory"]);
    $server->onOpen(function (WsConnection $c) {
        $c->session->set('visits', $c->session->get('visits', 0) + 1);
        $c->bind('user-7');
        $c->subscribe('news');
        echo 'open ', $c->resumed ? 'resumed' : 'new', ' ', $c->session->get('visits'), "\n";
    });
    $server->onMessage(function (WsConnection $c, string $data, bool $binary, WsMessage $m) use ($server) {
        if ($data === 'stop') { $server->stop(1.0); return; }
        if ($data === 'bad') { $m->reject('no', 7); return; }
        if ($data === 'push') {
            for ($n = 1; $n <= 200; $n++) {
                $c->send("pushed $n");
                $server->publish('news', "news $n");
            }
        }
        echo "got $data\n";
    });
    $server->start();
    echo $server->address(), "\n";
    $server->run();
    PHP;
$directory = outbox_directory();
[$process, $output] = other($code, ['ws://127.0.0.1:0', $directory]);
$address = trim(fgets($output));

$client = new WsClient($address, FAST);
$client->onOpen(function (WsClient $c, bool $resumed) use (&$opened) { $opened++; echo 'client ', $resumed ? 'resumed' : 'new', "\n"; });
$client->onGap(function (WsGap $gap) { echo "gap {$gap->channel} {$gap->why}\n"; });
$came = ['pushed' => [], 'news' => []];
$client->onMessage(function (WsClient $c, string $data) use (&$came) {
    [$what, $n] = explode(' ', $data);
    $came[$what][] = (int) $n;
});
$client->onReject(function (int $sequence, string $data, int $code, string $reason) { echo "rejected $sequence $code\n"; });
$client->connect();
foreach (['one', 'bad', 'push'] as $data) { $client->send($data); }
var_dump($client->flush(10));
until($client, function () use (&$came) { return $came['pushed']; }, 'the push');
$id = $client->stats()['session']['id'];

// Some of it has come, some not.
proc_terminate($process, 9);
echo "-- killed\n";
echo stream_get_contents($output);
proc_close($process);
$client->send('two');
[$process, $output] = other($code, [$address, $directory]);
fgets($output);
until($client, function () use (&$opened) { return $opened === 2; }, 'the second opening');
var_dump($client->flush(10), $client->stats()['session']['id'] === $id);
until($client, function () use (&$came) { return count($came['pushed']) >= 200 && count($came['news']) >= 200; }, 'the rest');
var_dump($came['pushed'] === range(1, 200), $came['news'] === range(1, 200));

echo "-- stopped\n";
$client->send('stop');
$client->flush(10);
echo stream_get_contents($output);
proc_close($process);
[$process, $output] = other($code, [$address, $directory]);
fgets($output);
until($client, function () use (&$opened) { return $opened === 3; }, 'the third opening');
$client->send('three');
var_dump($client->flush(10), $client->stats()['session']['id'] === $id);
// One owner.
echo preg_replace('~/\S+~', 'DIR', preg_replace('/process \d+/', 'process N', thrown(fn () => (new WsServer('ws://127.0.0.1:0', ['store' => "file://$directory"]))->start()))), "\n";
$client->send('stop');
$client->flush(10);
echo stream_get_contents($output);
$client->close();
$client->run();
proc_close($process);

echo "-- refused\n";
foreach (['disk', 'file://relative', 'file:///dev/null', 'redis://:secret@localhost', 7] as $store) {
    echo thrown(fn () => new WsServer('ws://127.0.0.1:0', ['store' => $store])), "\n";
}
?>
--EXPECT--
client new
rejected 2 7
bool(true)
-- killed
open new 1
got one
got push
client resumed
bool(true)
bool(true)
bool(true)
bool(true)
-- stopped
open resumed 2
got two
client resumed
bool(true)
bool(true)
WsStorageException: store: DIR is in use by process N; a directory has one owner
open resumed 3
got three
-- refused
ValueError: WsServer: option 'store' must be 'memory' or 'file:///directory', 'disk' given
ValueError: WsServer: option 'store' must be 'memory' or 'file:///directory': 'file://relative' does not name an absolute directory
ValueError: WsServer: option 'store' must be 'memory' or 'file:///directory': '/dev/null' is no directory
ValueError: WsServer: option 'store' must be 'memory' or 'file:///directory': a store in Redis ('redis://') is not available yet
TypeError: WsServer: option 'store' must be of type string, int given
