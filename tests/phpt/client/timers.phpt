--TEST--
after(), every() and cancel() of a client
--EXTENSIONS--
lifeline
--FILE--
<?php
require __DIR__ . '/../inc/client.php';
$client = new WsClient('ws://127.0.0.1:1');
$order = [];
$client->after(0.04, function () use (&$order) { $order[] = 'later'; });
$client->after(0, function () use (&$order) { $order[] = 'now'; });
$never = $client->after(0.01, function () use (&$order) { $order[] = 'never'; });
$client->cancel($never);
$client->cancel(12345);
$ticks = 0;
$every = $client->every(0.005, function () use (&$ticks, &$every, $client) {
    if (++$ticks === 3) {
        $client->cancel($every);
    }
});
until($client, function () use (&$order, &$ticks) { return count($order) === 2 && $ticks === 3; }, 'the timers');
$client->poll(0.05);
echo implode(' ', $order), " $ticks\n";
var_dump($client->state()); // timers need no connection
foreach ([-1, NAN, INF] as $seconds) {
    echo strtok(thrown(fn () => $client->after($seconds, fn () => 0)), ':'), ' ';
}
echo strtok(thrown(fn () => $client->every(0, fn () => 0)), ':'), "\n";
echo thrown(fn () => $client->after(1, 'no_such_function')), "\n";
--EXPECT--
now later 3
enum(WsState::Disconnected)
ValueError ValueError ValueError ValueError
TypeError: WsClient::after(): Argument #2 ($f) must be a valid callback, function "no_such_function" not found or invalid function name
