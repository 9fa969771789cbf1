--TEST--
A handler that is suspended or has deferred stops only its own client; receive() inside a callback works
--EXTENSIONS--
lifeline
--FILE--
<?php
require __DIR__ . '/../inc/client.php';
$server = echo_server();
$log = new ArrayObject();
$wait = fn (int $n) => fn () => count($log) >= $n;

echo "-- suspended\n";
$slow = new WsClient($server->address());
$quick = new WsClient($server->address());
$fiber = null;
$slow->onMessage(function (WsClient $c, string $data) use ($log, &$fiber) {
    if ($data === 'first') {
        $fiber = new Fiber(function () use ($log, $data) {
            $log[] = "begin $data";
            Fiber::suspend();
            $log[] = "end $data";
        });
        $fiber->start();
        return;
    }
    $log[] = $data;
});
$quick->onMessage(function (WsClient $c, string $data) use ($log) { $log[] = "quick $data"; });
// The whole dispatch runs in a fiber, which the handler of $late suspends.
$late = new WsClient($server->address());
$late->onMessage(function (WsClient $c, string $data) use ($log) {
    $log[] = "late $data";
    if ($data === 'one') {
        Fiber::suspend();
        $log[] = 'late one ends';
    }
});
$slow->sendMany(['first', 'second']);
$slow->connect();
until($slow, $wait(2), 'two messages');
$fiber->resume();
$late->sendMany(['one', 'two']);
$late->connect();
$dispatch = new Fiber(fn () => until($late, $wait(6), 'its messages'));
$dispatch->start();
$quick->send('x');
$quick->connect();
until($quick, $wait(5), 'the quick one');
$dispatch->resume();
while (!$dispatch->isTerminated()) {
    $dispatch->resume();
}
until($late, $wait(7), 'the rest');
echo implode("\n", (array) $log), "\n";

echo "-- deferred\n";
$log->exchangeArray([]);
$kept = null;
$client = new WsClient($server->address());
$client->onMessage(function (WsClient $c, string $data, bool $binary, WsMessage $m) use ($log, &$kept) {
    $log[] = $data;
    if ($data === 'a') {
        $kept = $m;
        $m->defer();
    }
});
$client->sendMany(['a', 'b']);
$quick->onMessage(function () use ($log) { $log[] = 'quick'; });
$client->connect();
until($client, $wait(1), 'the first');
$quick->send('y');
until($client, $wait(2), 'the quick one');
$kept->ack();
until($client, $wait(3), 'the second');
echo implode(' ', (array) $log), "\n";

echo "-- receive() in a callback\n";
$client = new WsClient($server->address());
$client->onOpen(function (WsClient $c) {
    $c->send('inner');
    echo $c->receive(10), "\n";
    $c->close();
});
$client->run();
echo "done\n";
--EXPECT--
-- suspended
begin first
second
end first
late one
quick x
late one ends
late two
-- deferred
a quick b
-- receive() in a callback
inner
done
