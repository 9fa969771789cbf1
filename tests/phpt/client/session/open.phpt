--TEST--
A session: onOpen says whether it went on, messages have ids, and are acknowledged when the handler has returned
--EXTENSIONS--
lifeline
--FILE--
<?php
require __DIR__ . '/../../inc/far.php';
$far = new Far();
$client = client_of($far);
$got = [];
$closed = false;
$client
    ->onOpen(function (WsClient $c, bool $resumed) { echo 'open ', var_export($resumed, true), ' ', $c->state()->value, "\n"; })
    ->onClose(function (WsClient $c, int $code, string $reason, bool $clean) use (&$closed) { echo "close $code\n"; $closed = true; })
    ->onMessage(function (WsClient $c, string $data, bool $binary, WsMessage $m) use (&$got) {
        $got[] = "$data $m->id $m->sequence " . var_export($m->channel, true) . ' ' . var_export($binary, true);
    });
$client->connect();
$far->accept();
// Connected is who was welcomed.
echo $client->state()->value, "\n";
echo implode(',', array_keys($far->hello)), "\n";
$far->welcome();
until($client, fn () => $client->state() === WsState::Connected);
$far->send("M 1\none")->send("M 2\n\xFF", 0x82);
until($client, function () use (&$got) { return count($got) === 2; });
echo str_replace("\xFF", '\xFF', implode("\n", $got)), "\n";
// One of both, or both in one batch.
$acknowledged = $far->read();
echo $acknowledged === 'A 1' ? $far->read() : $acknowledged, "\n";

$far->cut();
until($client, function () use (&$closed) { return $closed; });
$far->accept();
echo json_encode($far->hello['resume']), "\n";
$far->welcome()->send("M 3\nthree");
until($client, function () use (&$got) { return count($got) === 3; });
echo end($got), "\n", $far->read(), "\n";
$stats = $client->stats()['session'];
echo "$stats[id] $stats[resumed] $stats[duplicates] $stats[gaps] $stats[rejected] $stats[unacknowledged]\n";
$client->close();
echo $far->read(), "\n";
--EXPECT--
connecting
v,outbox
open false connected
one session:1 1 NULL false
\xFF session:2 2 NULL true
A 2
close 1006
{"sid":"session","tok":"t1----------------------","s":2,"ch":[]}
open true connected
three session:3 3 NULL false
A 3
session 1 0 0 0 0
close 1000
