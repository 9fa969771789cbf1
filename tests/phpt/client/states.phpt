--TEST--
Every change of state is one transition; connect() twice makes one connection
--EXTENSIONS--
lifeline
--FILE--
<?php
require __DIR__ . '/../inc/client.php';
$server = serve();
$client = new WsClient($server->address(), FAST);
$seen = new ArrayObject();
$client->onStateChange(function (WsTransition $t) use ($seen) {
    $seen[] = $t;
    echo "{$t->from->value} -> {$t->to->value}", $t->to === WsState::Reconnecting ? ' ' . gettype($t->delay) : '', "\n";
});
var_dump($client->state() === WsState::Disconnected);
$client->connect();
$client->connect();
until($client, fn () => $client->state() === WsState::Connected && count($server) === 1, 'a connection');
foreach ($server->connections() as $connection) {
    $connection->close(1012, 'restart');
}
until($client, fn () => count($seen) >= 5 && $client->state() === WsState::Connected && count($server) === 1, 'it to come back');
echo "lost with {$seen[2]->code} '{$seen[2]->reason}' attempt {$seen[2]->attempt}\n";
$client->close();
$client->run();
var_dump($client->state());
echo thrown(fn () => $seen[0]->code = 1), "\n";
echo thrown(fn () => $seen[0]->foo = 1), "\n";
echo thrown(fn () => clone $seen[0]), "\n";
--EXPECT--
bool(true)
disconnected -> connecting
connecting -> connected
connected -> reconnecting double
reconnecting -> connecting
connecting -> connected
lost with 1012 'restart' attempt 2
connected -> closed
enum(WsState::Closed)
Error: Cannot modify readonly property WsTransition::$code
Error: Cannot create dynamic property WsTransition::$foo
Error: Trying to clone an uncloneable object of class WsTransition
