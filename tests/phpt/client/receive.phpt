--TEST--
receive() and messages(): blocking style, other objects' callbacks are served meanwhile
--EXTENSIONS--
lifeline
--FILE--
<?php
require __DIR__ . '/../inc/client.php';
$server = echo_server();
$client = new WsClient($server->address());
$start = microtime(true);
var_dump($client->receive(0.1));
echo microtime(true) - $start >= 0.09 ? "waited\n" : "did not wait\n";
$client->send('one');
$client->send("\x01", true);
$m = $client->receive(10);
var_dump($m instanceof WsMessage, $m->data, $m->binary);
$m->defer(); // nothing to put off
$m->ack();
var_dump($client->receive(10)->binary);
var_dump($client->receive(0));
$client->sendMany(['a', 'b', 'c']);
foreach ($client->messages() as $i => $m) {
    echo "$i $m\n";
    if ($m->data === 'c') {
        $client->close();
    }
}
var_dump($client->receive(), $client->receive(1));
foreach ($client->messages() as $m) {
    echo "nothing more\n";
}
echo thrown(fn () => $client->receive(-1)), "\n";
echo thrown(fn () => $client->receive(NAN)), "\n";

echo "-- the server closes\n";
$client = new WsClient($server->address(), ['reconnect' => ['terminalCodes' => [1008]]]);
$client->connect();
$client->send('x');
var_dump($client->receive(10)->data);
foreach ($server->connections() as $c) {
    $c->send('last');
    $c->close(1008, 'go');
}
var_dump($client->receive(10)->data);
echo str_replace($server->address(), 'URL', thrown(fn () => $client->receive(10))), "\n";
var_dump($client->receive(10));

echo "-- onMessage\n";
$client = new WsClient($server->address());
$client->send('early');
until($client, fn () => $client->stats() && $client->unacknowledged() === 0 && $client->state() === WsState::Connected || $client->connect(), 'it to be sent');
$client->onMessage(function (WsClient $c, string $data) use (&$late) { $late = $data; });
until($client, function () use (&$late) { return $late !== null; }, 'the message');
echo "$late\n";
echo thrown(fn () => $client->receive(0)), "\n";
echo thrown(fn () => $client->messages()), "\n";
--EXPECT--
NULL
waited
bool(true)
string(3) "one"
bool(false)
bool(true)
NULL
0 a
1 b
2 c
NULL
NULL
ValueError: WsClient::receive(): Argument #1 ($timeout) must be at least 0 seconds, -1 given
ValueError: WsClient::receive(): Argument #1 ($timeout) must be at least 0 seconds, NaN given
-- the server closes
string(1) "x"
string(4) "last"
WsConnectException: URL closed the connection with 1008: go
NULL
-- onMessage
early
WsException: receive() and messages() are not for a client that has onMessage
WsException: receive() and messages() are not for a client that has onMessage
