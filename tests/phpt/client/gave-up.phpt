--TEST--
A terminal refusal or exhausted attempts: onError, or thrown once from run, poll, receive, flush
--EXTENSIONS--
lifeline
--FILE--
<?php
require __DIR__ . '/../inc/client.php';
$refuse = new RawServer();
function refused(RawServer $refuse, array $options = []): WsClient
{
    $client = new WsClient($refuse->url(), $options);
    $client->send('never sent');
    $client->connect();
    fclose($refuse->answer('403 Forbidden', ['Content-Length: 0', 'Connection: close'])[0]);
    return $client;
}
function told(callable $f): string
{
    try {
        $f();
    } catch (WsConnectException $e) {
        return "WsConnectException {$e->getCode()}" . ($e->getMessage() === '' ? ' without words' : '');
    }
    return 'nothing thrown';
}
$ways = [
    'run' => fn ($c) => $c->run(),
    'poll' => fn ($c) => until($c, fn () => false),
    'receive' => fn ($c) => $c->receive(10),
    'messages' => fn ($c) => iterator_to_array($c->messages()),
    'flush' => fn ($c) => $c->flush(10),
];
foreach ($ways as $name => $way) {
    $client = refused($refuse);
    echo "$name: ", told(fn () => $way($client)), ', then ', told(fn () => $client->run()), "\n";
    var_dump($client->state());
}
echo "-- onError\n";
$client = refused($refuse);
$client->onError(function (Throwable $e) { echo get_class($e), " {$e->getCode()}\n"; });
echo told(fn () => $client->run()), "\n";

echo "-- attempts\n";
$closed = new RawServer();
$url = $closed->url();
unset($closed);
$states = [];
$client = new WsClient($url, ['reconnect' => ['maxAttempts' => 3] + FAST['reconnect']]);
$client->onStateChange(function (WsTransition $t) use (&$states) { $states[] = $t->to->value; });
echo told(fn () => $client->run()), "\n";
echo implode(' ', $states), "\n";

echo "-- another object's run() is not the place\n";
$server = serve();
$client = refused($refuse);
$server->every(0.01, fn () => $client->state() === WsState::Closed && $server->after(0.05, fn () => $server->stop(0)));
echo told(fn () => $server->run()), "\n";
echo told(fn () => until($client, fn () => false)), "\n";

echo "-- it has given up and was not asked yet\n";
$client = refused($refuse);
meanwhile(fn () => $client->stats()['state'] === 'Closed', 'the refusal');
var_dump($client->state() === WsState::Closed);
echo thrown(fn () => $client->send('x')), "\n";
echo told(fn () => $client->flush()), "\n";
var_dump($client->state() === WsState::Closed, $client->flush());
--EXPECT--
run: WsConnectException 403, then nothing thrown
enum(WsState::Closed)
poll: WsConnectException 403, then nothing thrown
enum(WsState::Closed)
receive: WsConnectException 403, then nothing thrown
enum(WsState::Closed)
messages: WsConnectException 403, then nothing thrown
enum(WsState::Closed)
flush: WsConnectException 403, then nothing thrown
enum(WsState::Closed)
-- onError
WsConnectException 403
nothing thrown
-- attempts
WsConnectException 0
connecting reconnecting connecting reconnecting connecting reconnecting connecting closed
-- another object's run() is not the place
nothing thrown
WsConnectException 403
-- it has given up and was not asked yet
bool(false)
WsException: the WsClient is closed
WsConnectException 403
bool(true)
bool(false)
