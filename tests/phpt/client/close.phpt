--TEST--
close(): codes and reasons that may be sent, once, before connecting too
--EXTENSIONS--
lifeline
--FILE--
<?php
require __DIR__ . '/../inc/client.php';
$server = serve(['close' => function ($c, $code, $reason, $clean) { echo "server: $code '$reason' ", var_export($clean, true), "\n"; }]);
$client = new WsClient($server->address());
foreach ([0, 999, 1004, 1005, 1006, 1015, 2000, 2999, 5000, -1] as $code) {
    echo strtok(thrown(fn () => $client->close($code)), ':'), ' ';
}
echo "\n", thrown(fn () => $client->close(1000, str_repeat('x', 124))), "\n";
echo thrown(fn () => $client->close(1000, "\xFF")), "\n";
$client->connect();
until($client, fn () => count($server) === 1 && $client->state() === WsState::Connected, 'a connection');
$reason = str_repeat('é', 61);
$client->close(4999, $reason);
$client->close(1000, 'second');
$client->run();
until($server, fn () => count($server) === 0, 'the close');

echo "-- before connect()\n";
$client = new WsClient($server->address());
$client->close();
var_dump($client->state());
$client->run();
echo thrown(fn () => $client->connect()), "\n";

echo "-- while reconnecting\n";
$client = new WsClient('ws://127.0.0.1:1', ['reconnect' => ['first' => 60]]);
$client->connect();
until($client, fn () => $client->state() === WsState::Reconnecting, 'a failed attempt');
$client->close();
$client->run();
var_dump($client->state());

echo "-- the server closes: the client comes back\n";
$opens = 0;
$client = new WsClient($server->address(), FAST);
$client->onOpen(function () use (&$opens) { $opens++; })
    ->onClose(function ($c, $code, $reason, $clean) { echo "client: $code '$reason' ", var_export($clean, true), "\n"; });
$client->connect();
until($client, function () use (&$opens, $server) { return $opens === 1 && count($server) === 1; }, 'a connection');
foreach ($server->connections() as $c) {
    $c->close(4100, 'bye');
}
until($client, function () use (&$opens) { return $opens === 2; }, 'it to come back');
$client->close();
$client->run();
until($server, fn () => count($server) === 0, 'the close');
--EXPECTF--
ValueError ValueError ValueError ValueError ValueError ValueError ValueError ValueError ValueError ValueError 
ValueError: WsClient::close(): Argument #2 ($reason) must be at most 123 bytes, 124 given
ValueError: WsClient::close(): Argument #2 ($reason) must be valid UTF-8
server: 4999 'ééééééééééééééééééééééééééééééééééééééééééééééééééééééééééééé' true
-- before connect()
enum(WsState::Closed)
WsException: the WsClient is closed
-- while reconnecting
enum(WsState::Closed)
-- the server closes: the client comes back
%Aclient: 4100 'bye' true
%A
