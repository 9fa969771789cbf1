--TEST--
Several URLs are tried in order; headers, credentials and subprotocols reach the server
--EXTENSIONS--
lifeline
--FILE--
<?php
require __DIR__ . '/../inc/client.php';
$closed = new RawServer();
$dead = $closed->url();
unset($closed);
$server = serve(['open' => function (WsConnection $c, WsRequest $r) use (&$seen) {
    $seen = "$r->target | {$r->header('authorization')} | {$r->header('x-a')} | " . implode(',', $r->protocols) . " | $c->protocol";
}], ['protocols' => ['b', 'a']]);
$address = str_replace('ws://', 'ws://me:p%40ss@', rtrim($server->address(), '/'));
$client = new WsClient([$dead, "$address/x?y=1"], FAST + [
    'protocols' => ['a', 'b'],
    'connect' => ['headers' => ['X-A' => ['1', '2']]],
]);
$client->connect();
until($client, function () use (&$seen) { return $seen !== null; }, 'a connection');
echo $seen, "\n";
echo base64_decode('bWU6cEBzcw=='), "\n";
$client->close();
$client->run();
--EXPECT--
/x?y=1 | Basic bWU6cEBzcw== | 1, 2 | a,b | b
me:p@ss
