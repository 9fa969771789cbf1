--TEST--
stream() inside an outer loop: stream_select() alone drives clients and servers
--EXTENSIONS--
lifeline
--FILE--
<?php
require __DIR__ . '/../inc/client.php';
$server = echo_server();
$client = new WsClient($server->address());
$got = 0;
$client->onOpen(fn (WsClient $c) => $c->send('0'));
$client->onMessage(function (WsClient $c, string $data) use (&$got) {
    if (++$got < 100) {
        $c->send((string) $got);
    }
});
$client->connect();
$stream = $client->stream();
var_dump(is_resource($stream));
$end = microtime(true) + LIMIT;
$selects = 0;
while ($got < 100 && microtime(true) < $end) {
    $read = [$stream];
    $none = null;
    if (stream_select($read, $none, $none, 1)) {
        $client->tick();
    }
    $selects++;
}
echo "$got\n";
$timer = false;
$client->after(0.02, function () use (&$timer) { $timer = true; });
while (!$timer && microtime(true) < $end) {
    $read = [$stream];
    $none = null;
    if (stream_select($read, $none, $none, 1)) {
        $client->tick();
    }
}
var_dump($timer);
$tick = $client->tick(...);
var_dump($tick('callback id', $stream)); // as Revolt and ReactPHP call it
$tick = $server->tick(...);
var_dump($tick($stream));
$client->close();
$client->run();
--EXPECT--
bool(true)
100
bool(true)
NULL
NULL
