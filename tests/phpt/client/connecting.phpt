--TEST--
onConnecting supplies the headers of each attempt; what it throws fails the attempt
--EXTENSIONS--
lifeline
--FILE--
<?php
require __DIR__ . '/../inc/client.php';
$server = serve(['open' => function (WsConnection $c, WsRequest $r) use (&$headers) {
    $headers[] = $r->header('Authorization') . ' ' . $r->header('X-Fixed');
}]);
$headers = [];
$client = new WsClient($server->address(), FAST + ['connect' => ['headers' => ['X-Fixed' => 'yes']]]);
$attempts = [];
$client->onConnecting(function (WsClient $c, int $attempt) use (&$attempts) {
    $attempts[] = $attempt;
    return match (count($attempts)) {
        1 => throw new DomainException('no token yet'),
        2 => 'nonsense',
        3 => ['Bad Name' => 'x'],
        4 => ['X' => "a\r\nb"],
        default => ['Authorization' => 'Bearer ' . count($attempts)],
    };
});
$client->onError(function (Throwable $e) { echo get_class($e), ': ', $e->getMessage(), "\n"; });
$client->connect();
until($client, function () use (&$headers) { return count($headers) === 1; }, 'a connection');
foreach ($server->connections() as $c) {
    $c->abort();
}
until($client, function () use (&$headers) { return count($headers) === 2; }, 'a second connection');
echo implode(', ', $headers), "\n";
echo count($attempts), ' ', min($attempts) >= 1 ? 'counted' : 'not counted', "\n";
echo thrown(fn () => $client->onConnecting(fn () => [])), "\n";
$client->close();
$client->run();
--EXPECT--
DomainException: no token yet
TypeError: WsClient: what onConnecting returns must be an array of header names to values (['Authorization' => 'Bearer …']), string given
ValueError: WsClient: what onConnecting returns: 'Bad Name' is not a header name (letters, digits and !#$%&'*+-.^_`|~)
ValueError: WsClient: what onConnecting returns: the value of 'X' must be UTF-8 without control characters
Bearer 5 yes, Bearer 6 yes
6 counted
WsException: WsClient::onConnecting() must be called before connect() and before the first send()
