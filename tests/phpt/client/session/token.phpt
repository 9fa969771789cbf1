--TEST--
onToken: asked before HELLO, again after 4003, at once when set anew; what it may not return
--EXTENSIONS--
lifeline
--FILE--
<?php
require __DIR__ . '/../../inc/far.php';
$far = new Far();
$client = client_of($far);
$calls = 0;
$client->onToken(function () use (&$calls) {
    $calls++;
    return match ($calls) { 1 => throw new RuntimeException('no token today'), 2 => 42, default => "token $calls" };
});
$client->onError(function (Throwable $e) { echo get_class($e), ': ', $e->getMessage(), "\n"; });
$client->connect();
until($client, function () use (&$calls) { return $calls === 3; });
echo $far->accept()->hello['auth'], "\n";
$far->welcome();
until($client, fn () => $client->state() === WsState::Connected);
// Kept over a loss.
$far->cut();
until($client, fn () => $client->state() !== WsState::Connected);
echo $far->accept()->hello['auth'], "\n";
$far->welcome();
until($client, fn () => $client->state() === WsState::Connected);
$far->close(4003);
until($client, function () use (&$calls) { return $calls === 4; });
echo $far->accept()->hello['auth'], "\n";
$far->welcome();
until($client, fn () => $client->state() === WsState::Connected);
$client->onToken(fn () => 'another');
for ($i = 0; $i < 3; $i++) {
    $client->poll(0.01);
}
echo $far->read(), "\n";
// Before the client is there, not after.
echo thrown(fn () => (function () use ($far) { $late = new WsClient($far->url()); $late->send('x'); $late->onToken(fn () => ''); })()), "\n";
$client->onError(function (Throwable $e) {
    $message = preg_replace('~ws://127.0.0.1:\d+~', 'URL', $e->getMessage());
    echo get_class($e), ' ', $e->getCode(), ': ', $message, "\n";
});
$far->close(4500);
$client->run();
echo $client->state()->value, "\n";
--EXPECT--
RuntimeException: no token today
TypeError: WsClient: onToken must return a string of UTF-8, int returned
token 3
token 3
token 4
T {"auth":"another"}
WsException: WsClient::onToken() must be called before connect() and before the first send()
WsConnectException 4500: URL closed the connection with 4500
closed
