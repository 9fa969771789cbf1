--TEST--
Messages to the server: acknowledged when handled, sent again after a loss, onReject; flush() and close()
--EXTENSIONS--
lifeline
--FILE--
<?php
require __DIR__ . '/../../inc/far.php';
$far = new Far();
$client = client_of($far);
$client->onReject(function (int $sequence, string $data, int $code, string $reason) { echo "reject $sequence $data $code $reason\n"; });
$client->onOverflow(function (int $sequence, string $data, string $why) { echo "overflow $sequence $data $why\n"; });
var_dump($client->send('early'), $client->sendMany(['two', 'three']), $client->unacknowledged());
$client->connect();
echo json_encode(array_diff_key($far->accept()->hello['outbox'], ['id' => 0])), "\n";
$far->welcome();
until($client, fn () => $client->state() === WsState::Connected);
echo $far->read(), "\n", $far->read(), "\n", $far->read(), "\n";
var_dump($client->flush(0.05), $client->unacknowledged());
$far->send('A 1');
until($client, fn () => $client->unacknowledged() === 2);
$id = $far->hello['outbox']['id'];
$far->cut();
until($client, fn () => $client->state() !== WsState::Connected);
$client->send("\x00\xFE", true);
$far->accept();
var_dump($far->hello['outbox'] === ['id' => $id, 'gen' => 1, 'first' => 2, 'next' => 5]);
// The second was handled, and only the acknowledgement lost.
$far->welcome(['q' => 2]);
echo $far->read(), "\n", bin2hex($far->read()), "\n";
$far->send('N {"q":3,"code":-7,"reason":"no thanks","permanent":true}')->send('A 4');
var_dump($client->flush(10), $client->unacknowledged(), $client->stats()['session']['rejected']);
// With a message of the server's.
$client->send('five');
echo $far->read(), "\n";
$far->send("M 1 q=5\nthanks");
var_dump($client->flush(10));
$client->onMessage(fn () => 0);
$client->send('six', ttl: 0.01);
$client->send('seven');
$client->close();
$read = '';
for ($i = 0; $i < 3 && !str_contains($read, 'P 7'); $i++) {
    $read = $far->read();
    echo $read, "\n";
}
$far->send('A 7');
$client->run();
$read = $far->read();
echo str_starts_with($read, 'A') ? $far->read() : $read, "\n";
--EXPECTF--
int(1)
int(3)
int(3)
{"gen":1,"first":1,"next":4}
P 1 | early
P 2 | two
P 3 | three
bool(false)
int(3)
bool(true)
P 3 | three
502034207c2000fe
reject 3 three -7 no thanks
bool(true)
int(0)
int(1)
P 5 | five
bool(true)
%AP 7%A
close 1000
