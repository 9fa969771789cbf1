--TEST--
A server that asks to leave is left with 1001, and the client is back with its session, without an error
--EXTENSIONS--
lifeline
--FILE--
<?php
require __DIR__ . '/../../inc/far.php';
$far = new Far();
$client = client_of($far, ['reconnect' => ['first' => 60, 'floor' => 60, 'max' => 60, 'base' => 60, 'stableAfter' => 0]]);
$client->onError(function (Throwable $e) { echo 'onError ', $e->getMessage(), "\n"; });
$client->onClose(function (WsClient $c, int $code, string $reason, bool $clean) { echo "close $code '$reason' ", var_export($clean, true), "\n"; });
$opens = 0;
$client->onOpen(function (WsClient $c, bool $resumed) use (&$opens) { $opens++; echo 'open ', var_export($resumed, true), "\n"; });
$client->onStateChange(function (WsTransition $t) { echo "{$t->to->value} ", var_export($t->delay, true), "\n"; });
$client->connect();
$far->accept()->welcome();
until($client, function () use (&$opens) { return $opens === 1; });
$far->send('X {"after":0}');
echo $far->read(), "\n";
$far->close(1001);
$far->cut();
$far->accept()->welcome();
until($client, function () use (&$opens) { return $opens === 2; });
$client->close();
echo $far->read(), "\n";
$far->close(1000);
$client->run();
--EXPECT--
connecting NULL
connected NULL
open false
close 1001
close 1001 'the server asked to leave' true
reconnecting 0.0
connecting NULL
connected NULL
open true
close 1000
closed NULL
close 1000 '' true
