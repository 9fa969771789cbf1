--TEST--
reconnect.mode lazy connects for a message or for wake(); wake() ends a backoff
--EXTENSIONS--
lifeline
--FILE--
<?php
require __DIR__ . '/../inc/client.php';
final class Count { public static int $opened = 0; }
$server = echo_server(['open' => function () { Count::$opened++; }]);
$opens = fn (int $n) => fn () => Count::$opened === $n;
$client = new WsClient($server->address(), ['reconnect' => ['mode' => 'lazy', 'first' => 0.01]]);
$client->connect();
until($client, $opens(1), 'the first connection');
$drop = function () use ($server) { foreach ($server->connections() as $c) { $c->abort(); } };
$drop();
until($client, fn () => $client->state() === WsState::Reconnecting, 'the loss');
$client->poll(0.3);
echo Count::$opened, "\n";
$client->send('x');
until($client, $opens(2), 'a message to connect it');
var_dump($client->receive(10)->data);
$drop();
until($client, fn () => $client->state() === WsState::Reconnecting, 'the loss');
$client->wake();
until($client, $opens(3), 'wake() to connect it');
$client->close();
$client->run();

echo "-- backoff\n";
$client = new WsClient($server->address(), ['reconnect' => ['first' => 1000]]);
$client->connect();
until($client, $opens(4), 'a connection');
$drop();
until($client, fn () => $client->state() === WsState::Reconnecting, 'the loss');
$client->wake();
until($client, $opens(5), 'wake() to end the backoff');
$client->wake(); // a probe
$client->poll(0.05);
var_dump($client->state());
$client->close();
$client->run();
echo thrown(fn () => $client->wake()), "\n";
--EXPECT--
1
string(1) "x"
-- backoff
enum(WsState::Connected)
WsException: the WsClient is closed
