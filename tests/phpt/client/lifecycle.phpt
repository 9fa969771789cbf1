--TEST--
Callbacks may close and unset the client; destruction says 1001; cycles are collected; no clone, no second construction
--EXTENSIONS--
lifeline
--FILE--
<?php
require __DIR__ . '/../inc/client.php';
$closes = new ArrayObject();
$server = echo_server(['close' => function (WsConnection $c, int $code) use ($closes) { $closes[] = $code; }]);
$ended = fn (int $n) => fn () => count($closes) === $n;

echo "-- closed and unset in each callback\n";
foreach (['open', 'message', 'stateChange', 'close'] as $event) {
    $client = new WsClient($server->address());
    $weak = WeakReference::create($client);
    $client->send('x');
    if ($event === 'close') {
        $client->onMessage(fn (WsClient $c) => $c->close());
    }
    $client->on($event, function () use (&$client, $event) {
        if ($client && ($event !== 'stateChange' || $client->state() === WsState::Connected)) {
            $client->close();
            $client = null;
        }
    });
    $client->connect();
    until($server, fn () => $weak->get() === null, "the end of the client ($event)");
    echo "$event ";
}
until($server, $ended(4), 'four closes');
echo implode(' ', (array) $closes), "\n";

echo "-- destroyed while connected\n";
$closes->exchangeArray([]);
$client = new WsClient($server->address());
$client->connect();
until($client, fn () => $client->state() === WsState::Connected && count($server) === 1, 'a connection');
unset($client);
until($server, $ended(1), 'a close');
echo implode(' ', (array) $closes), "\n";

echo "-- cycles\n";
gc_collect_cycles();
$before = memory_get_usage();
for ($i = 0; $i < 2000; $i++) {
    $client = new WsClient('ws://127.0.0.1:1');
    $client->onMessage(function () use ($client) {});
    $client->onError(function () use ($client) {});
    $client->after(1000, function () use ($client) {});
    $weak = WeakReference::create($client);
    unset($client);
}
gc_collect_cycles();
var_dump($weak->get(), memory_get_usage() - $before < 100_000);
$client = new WsClient($server->address());
$client->connect();
$client->onMessage(function () use ($client) {});
$iterator = (new WsClient($server->address()))->messages();
$weak = WeakReference::create($client);
unset($client, $iterator);
gc_collect_cycles();
var_dump($weak->get());

echo "-- no clone, no second construction, no serialisation\n";
$client = new WsClient($server->address());
echo thrown(fn () => clone $client), "\n";
echo thrown(fn () => $client->__construct('ws://a')), "\n";
echo thrown(fn () => serialize($client)), "\n";
echo thrown(fn () => $client->foo = 1), "\n";
echo thrown(fn () => $client->onMessage = fn () => 1), "\n";
--EXPECT--
-- closed and unset in each callback
open message stateChange close 1000 1000 1000 1000
-- destroyed while connected
1001
-- cycles
NULL
bool(true)
NULL
-- no clone, no second construction, no serialisation
Error: Trying to clone an uncloneable object of class WsClient
Error: this WsClient is constructed already
Exception: Serialization of 'WsClient' is not allowed
Error: Cannot create dynamic property WsClient::$foo
Error: Cannot assign WsClient::$onMessage: set the callback with $client->onMessage(callable)
