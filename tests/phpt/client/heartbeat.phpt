--TEST--
Heartbeats of a client: sent while PHP is blocked, a dead server is found, application beats
--EXTENSIONS--
lifeline
--FILE--
<?php
require __DIR__ . '/../inc/client.php';
$raw = new RawServer();
function beats(array $heartbeat): array
{
    return ['heartbeat' => $heartbeat, 'reconnect' => ['first' => 1000]];
}

echo "-- beats while PHP is blocked in the server's stead\n";
$client = new WsClient($raw->url(), beats(['interval' => 0.05, 'timeout' => 5]));
$client->connect();
[$socket] = $raw->upgrade();
for ($i = 0; $i < 3; $i++) {
    [$first, $data] = RawServer::frame($socket); // nobody polls
    fwrite($socket, "\x8A" . chr(strlen($data)) . $data);
    echo dechex($first), "\n";
}
var_dump($client->state());
$client->close();

echo "-- a dead server\n";
$client = new WsClient($raw->url(), beats(['interval' => 0.05, 'timeout' => 0.05, 'missedLimit' => 2]));
$client->onClose(function ($c, $code, $reason, $clean) use (&$closed) { $closed = "$code " . var_export($clean, true); });
$client->onStateChange(function (WsTransition $t) use (&$last) { $last = "{$t->from->value} -> {$t->to->value} {$t->code}"; });
$client->connect();
[$socket] = $raw->upgrade();
$start = microtime(true);
until($client, function () use (&$closed, &$last) { return $closed !== null && str_contains($last, '4001'); }, 'the death');
echo "$closed, $last\n";
$client->close();

echo "-- application beats\n";
$client = new WsClient($raw->url(), beats(['interval' => 0.05, 'timeout' => 5, 'message' => 'beat?', 'reply' => 'beat!', 'accept' => ['ping' => 'pong']]));
$got = [];
$client->onMessage(function ($c, $data) use (&$got) { $got[] = $data; });
$client->connect();
[$socket] = $raw->upgrade();
echo implode(' ', array_map(fn ($part) => is_int($part) ? dechex($part) : $part, RawServer::frame($socket))), "\n";
fwrite($socket, "\x81\x05beat!" . "\x81\x04ping" . "\x81\x04last");
do {
    [$first, $data] = RawServer::frame($socket);
} while ($data === 'beat?');
echo dechex($first), " $data\n";
until($client, function () use (&$got) { return $got === ['last']; }, 'the message that is none');
echo implode(' ', $got), "\n";
--EXPECT--
-- beats while PHP is blocked in the server's stead
89
89
89
enum(WsState::Connected)
-- a dead server
4001 false, connected -> reconnecting 4001
-- application beats
81 beat?
81 pong
last
