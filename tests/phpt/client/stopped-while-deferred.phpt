--TEST--
A client that has closed gets its onClose before run() returns, though a message is still deferred
--EXTENSIONS--
lifeline
--FILE--
<?php
require __DIR__ . '/../inc/client.php';
$server = serve(['open' => fn (WsConnection $c) => $c->send('hello')]);
$client = new WsClient($server->address());
$held = null;
$log = [];
$client->onMessage(function (WsClient $c, string $data, bool $binary, WsMessage $m) use (&$held) { $m->defer(); $held = $m; });
$client->onClose(function (WsClient $c, int $code) use (&$log) { $log[] = "closed $code"; });
$client->connect();
until($client, function () use (&$held) { return $held !== null; }, 'the message');
$client->close();
$client->run();
echo implode(' ', $log), "\n";
$held->ack();
$server->poll(0.01);
echo implode(' ', $log), "\n";
--EXPECT--
closed 1000
closed 1000
