--TEST--
send() works before connect(); sequence numbers, sendMany(), unacknowledged(), flush()
--EXTENSIONS--
lifeline
--FILE--
<?php
require __DIR__ . '/../inc/client.php';
$got = [];
$server = serve(['message' => function (WsConnection $c, string $data) use (&$got) { $got[] = $data; }]);
$client = new WsClient($server->address());
var_dump($client->unacknowledged(), $client->flush(0));
var_dump($client->send('one'), $client->send('two', ttl: 60), $client->sendMany(['three', 'four']), $client->sendMany([]));
var_dump($client->unacknowledged(), $client->state());
var_dump($client->flush(10), $client->unacknowledged());
until($server, function () use (&$got) { return count($got) === 4; }, 'four messages');
echo implode(' ', $got), "\n";
echo thrown(fn () => $client->send("\xFF")), "\n";
echo thrown(fn () => $client->sendMany(['a', 5])), "\n";
echo thrown(fn () => $client->sendMany(['a', "\xFF"])), "\n";
foreach ([0, -1, NAN, INF] as $ttl) {
    echo thrown(fn () => $client->send('x', false, $ttl)), "\n";
}
var_dump($client->send('five'));
$client->close();
$client->run();
echo thrown(fn () => $client->send('six')), "\n";
echo thrown(fn () => $client->connect()), "\n";
var_dump($client->unacknowledged());
--EXPECT--
int(0)
bool(true)
int(1)
int(2)
int(4)
int(4)
int(4)
enum(WsState::Disconnected)
bool(true)
int(0)
one two three four
ValueError: WsClient::send(): Argument #1 ($data) must be valid UTF-8 unless $binary is true
TypeError: WsClient::sendMany(): Argument #1 ($messages) must be a list of strings, element 1 is int
ValueError: WsClient::sendMany(): Argument #1 ($messages) must hold valid UTF-8 unless $binary is true, element 1 is not
ValueError: WsClient::send(): Argument #3 ($ttl) must be greater than 0 seconds and less than 1000000000, 0 given
ValueError: WsClient::send(): Argument #3 ($ttl) must be greater than 0 seconds and less than 1000000000, -1 given
ValueError: WsClient::send(): Argument #3 ($ttl) must be greater than 0 seconds and less than 1000000000, NaN given
ValueError: WsClient::send(): Argument #3 ($ttl) must be greater than 0 seconds and less than 1000000000, inf given
int(5)
WsException: the WsClient is closed
WsException: the WsClient is closed
int(0)
