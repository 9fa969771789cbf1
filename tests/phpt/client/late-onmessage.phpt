--TEST--
onMessage() set late: the messages that have waited wake the stream of an outer loop
--EXTENSIONS--
lifeline
--FILE--
<?php
require __DIR__ . '/../inc/client.php';
$gone = false;
$server = serve([
    'open' => function (WsConnection $c) { $c->send('one'); $c->send('two'); $c->close(1000); },
    'close' => function () use (&$gone) { $gone = true; },
]);
$client = new WsClient($server->address(), ['reconnect' => ['base' => 3600, 'max' => 3600, 'first' => 3600, 'jitter' => 'none']]);
$closed = false;
$client->onClose(function () use (&$closed) { $closed = true; });
$client->connect();
$stream = $client->stream();
// Both messages are in the inbox then, and nothing else is on its way that could wake the stream.
until($client, function () use (&$closed, &$gone) { return $closed && $gone; }, 'the close on both sides');
function readable($stream, int $seconds): int
{
    $read = [$stream];
    $none = null;
    return stream_select($read, $none, $none, $seconds);
}
while (readable($stream, 0)) {
    $client->tick();
}
$got = [];
$client->onMessage(function (WsClient $c, string $data) use (&$got) { $got[] = $data; });
var_dump(readable($stream, (int) LIMIT));
$client->tick();
echo implode(' ', $got), "\n";
var_dump(readable($stream, 0));
--EXPECT--
int(1)
one two
int(0)
