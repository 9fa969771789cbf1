--TEST--
An outbox on disk: what the disk refuses is an error and not taken; damage is told and the rest is sent
--EXTENSIONS--
lifeline
--FILE--
<?php
require __DIR__ . '/../inc/client.php';
require __DIR__ . '/../inc/durable.php';
$server = collector($got);
echo "-- full\n";
$directory = outbox_directory();
$code = <<<'PHP'
    $client = new WsClient('ws://127.0.0.1:1', ['outbox' => ['path' => $argv[1]]]);
    for ($i = 1; $i < 100; $i++) {
        try {
            $client->send(str_pad("$i ", 10000, 'x'));
        } catch (WsStorageException $error) {
            break;
        }
    }
    echo $i, ' ', preg_replace('~/.*/(\w+\.log)~', '\1', $error->getMessage()), "\n", $client->unacknowledged(), "\n";
    echo $client->send('small'), "\n";
    PHP;
[$process, $output] = other($code, [$directory], ['sh', '-c', 'trap "" XFSZ; ulimit -f 400; exec "$@"', 'sh']);
$lines = explode("\n", stream_get_contents($output));
proc_close($process);
[$failed, $message] = explode(' ', $lines[0], 2);
echo "$message\n";
var_dump((int) $lines[1] === $failed - 1, (int) $lines[2] === (int) $failed ?: $lines);
$client = new WsClient($server->address(), ['protocols' => [], 'outbox' => ['path' => $directory]]);
$client->connect();
var_dump($client->flush(10));
arrived($server, $got, (int) $failed);
$numbers = array_map(fn ($data) => (int) $data, $got);
array_pop($numbers);
var_dump($numbers === range(1, $failed - 1), end($got));
$client->close();
$client->run();

echo "-- damage\n";
$got = [];
$directory = outbox_directory();
[$process, $output] = other('$c = new WsClient("ws://127.0.0.1:1", ["outbox" => ["path" => $argv[1]]]); foreach (["one", "two", "three"] as $m) { $c->send($m); } exec("kill -9 " . getmypid());', [$directory]);
echo stream_get_contents($output);
proc_close($process);
$file = glob("$directory/*.log")[0];
$content = file_get_contents($file);
$at = strpos($content, 'two');
$content[$at] = 'T';
file_put_contents($file, $content);
$logged = [];
$logger = function (string $level, string $message) use (&$logged) { $logged[] = "$level " . preg_replace('~^/\S+ ~', '', $message); };
$client = new WsClient($server->address(), ['protocols' => [], 'logger' => $logger, 'outbox' => ['path' => $directory]]);
$client->onError(function (Throwable $error) use ($file, $at) {
    echo get_class($error), ': ', preg_replace('/offset \d+/', 'offset N', str_replace(dirname($file), '', $error->getMessage())), "\n";
    preg_match('/offset (\d+)/', $error->getMessage(), $offset);
    var_dump($offset[1] < $at && $offset[1] > $at - 60);
});
$client->connect();
var_dump($client->flush(10));
arrived($server, $got, 2);
echo implode(' ', $got), "\n";
foreach ($logged as $line) { echo substr($line, 0, 40), "\n"; }
$client->close();
$client->run();

echo "-- refused\n";
foreach ([['path' => ''], ['path' => '/dev/null'], ['path' => 7], ['durability' => 'interval'], ['path' => '/tmp', 'durability' => 'never']] as $outbox) {
    echo thrown(fn () => new WsClient('ws://127.0.0.1:1', ['outbox' => $outbox])), "\n";
}
$client = new WsClient('ws://127.0.0.1:1', ['outbox' => ['path' => '/proc/nowhere']]);
echo thrown(fn () => $client->send('x')), "\n";
?>
--EXPECT--
-- full
cannot write 0000000000000001.log: File too large (os error 27)
bool(true)
bool(true)
bool(true)
bool(true)
string(5) "small"
-- damage
WsStorageException: /0000000000000001.log is damaged at offset N: 38 bytes with about 1 records are unreadable; the file as it was is kept as /0000000000000001.damaged
bool(true)
bool(true)
one three
error is damaged at offset 151: 38 bytes
-- refused
ValueError: WsClient: option 'outbox.path' must name a directory: it is empty or contains NUL
ValueError: WsClient: option 'outbox.path' must name a directory: '/dev/null' is none
TypeError: WsClient: option 'outbox.path' must be of type string (directory) or null, int given
ValueError: WsClient: option 'outbox.durability' needs 'outbox.path', the directory to store messages in
ValueError: WsClient: option 'outbox.durability' must be one of 'always', 'interval', 'spill', 'never' given
WsStorageException: outbox.path: cannot create /proc/nowhere: No such file or directory (os error 2)
