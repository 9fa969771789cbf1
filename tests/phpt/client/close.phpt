--TEST--
close(): codes and reasons that may be sent, once, before connecting too
--EXTENSIONS--
lifeline
--FILE--
<?php
require __DIR__ . '/../inc/client.php';
$log = ['server' => [], 'client' => []];
$note = fn (string $side) => function ($c, int $code, string $reason, bool $clean) use ($side) {
    $GLOBALS['log'][$side][] = "$side: $code '$reason' " . var_export($clean, true);
};
function told(): void
{
    global $log;
    echo implode("\n", [...$log['client'], ...$log['server']]), "\n";
    $log = ['server' => [], 'client' => []];
}
$server = serve(['close' => $note('server')]);
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
told();

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
    ->onClose($note('client'));
$client->connect();
until($client, function () use (&$opens, $server) { return $opens === 1 && count($server) === 1; }, 'a connection');
foreach ($server->connections() as $c) {
    $c->close(4100, 'bye');
}
until($client, function () use (&$opens) { return $opens === 2; }, 'it to come back');
$client->close();
$client->run();
until($server, fn () => count($server) === 0, 'the close');
told();

echo "-- no message after one's own close()\n";
$server->onMessage(function (WsConnection $c) { $c->send('1'); $c->send('2'); $c->send('3'); });
$client = new WsClient($server->address());
$client->onMessage(function (WsClient $c, string $data) {
    echo "$data\n";
    $c->close();
});
$client->send('x');
$client->run();
until($server, fn () => count($server) === 0, 'the close');
told();
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
client: 4100 'bye' true
client: 1000 '' true
server: 4100 'bye' true
server: 1000 '' true
-- no message after one's own close()
1
server: 1000 '' true
