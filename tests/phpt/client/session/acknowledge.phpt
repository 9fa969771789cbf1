--TEST--
When a message is acknowledged: defer() and ack(), a fiber that suspends, a handler that throws, receive()
--EXTENSIONS--
lifeline
--FILE--
<?php
require __DIR__ . '/../../inc/far.php';

/** What has come is answered behind it: nothing was acknowledged before. */
function quiet(Far $far, int $n): string
{
    $far->send("I $n");
    return $far->read();
}

$far = new Far();
$client = client_of($far);
$kept = $fiber = null;
$resumed = false;
$count = 0;
$client->onError(function (Throwable $e) { echo 'onError ', $e->getMessage(), "\n"; });
$client->onMessage(function (WsClient $c, string $data, bool $binary, WsMessage $m) use (&$kept, &$count, &$resumed) {
    $count++;
    if ($data === 'defer') {
        $m->defer();
        $kept = $m;
    } elseif ($data === 'suspend') {
        Fiber::suspend();
        $resumed = true;
    } elseif ($data === 'throw') {
        throw new RuntimeException('as the test asked');
    }
});
$client->connect();
$far->accept()->welcome();
$far->send("M 1\ndefer");
until($client, function () use (&$kept) { return $kept !== null; });
echo quiet($far, 1), "\n";
// The next one waits for its turn.
$far->send("M 2\nsuspend");
for ($i = 0; $i < 5; $i++) {
    $client->poll(0.01);
}
echo "$count handled\n";
$kept->ack();
$fiber = new Fiber(function () use ($client, &$resumed) {
    until($client, function () use (&$resumed) { return $resumed; });
});
$fiber->start();
echo $far->read(), "\n", quiet($far, 2), "\n";
$fiber->resume();
echo $far->read(), "\n";
$far->send("M 3\nthrow");
until($client, function () use (&$count) { return $count === 3; });
echo $far->read(), "\n";
$client->close();
until($client, fn () => $client->state() === WsState::Closed);

// Who asks for the next one is through with the last.
$far = new Far();
$client = client_of($far);
$client->connect();
$far->accept()->welcome()->send("M 1\none")->send("M 2\ntwo");
$m = $client->receive(10);
echo "$m $m->sequence\n", quiet($far, 3), "\n";
$m = $client->receive(10);
echo "$m $m->sequence\n", $far->read(), "\n";
var_dump($client->receive(0.05));
echo $far->read(), "\n";
--EXPECT--
O 1
1 handled
A 1
O 2
A 2
onError as the test asked
A 3
one 1
O 3
two 2
A 1
NULL
A 2
