--TEST--
Channels: subscribe(), messages with their channel, onGap, onSnapshot, unsubscribe(), a denial
--EXTENSIONS--
lifeline
--FILE--
<?php
require __DIR__ . '/../../inc/far.php';
$far = new Far();
$client = client_of($far);
$events = 0;
$say = function (string $text) use (&$events) {
    $events++;
    echo "$text\n";
};
$client
    ->onMessage(fn (WsClient $c, string $data, bool $b, WsMessage $m) => $say("message $m->channel $m->sequence $m->id $data"))
    ->onGap(fn (WsGap $g) => $say('gap ' . var_export($g->channel, true) . " $g->from " . var_export($g->to, true) . " $g->why"))
    ->onSnapshot(fn (WsClient $c, string $channel, string $data) => $say("snapshot $channel $data"))
    ->onError(fn (Throwable $e) => $say(get_class($e) . ': ' . $e->getMessage()));
$heard = function (int $count) use ($client, &$events) {
    until($client, function () use ($count, &$events) { return $events >= $count; }, "$count events");
};
$client->subscribe('news');
$client->connect();
$far->accept()->welcome();
until($client, fn () => $client->state() === WsState::Connected);
$client->subscribe('wet paint');
$client->flush(0.1);
echo $far->read(), "\n", $far->read(), "\n";
$far->send('K {"ch":"news","st":"ok","e":"e1","o":4,"mid":"m4"}')->send('K {"ch":"wet paint","st":"denied"}');
$far->send("C news e1 5 m5\nfive");
$heard(2);
$far->send('K {"ch":"news","st":"snapshot","e":"e1","o":8,"mid":"m8"}');
$far->send('G {"channel":"news","from":6,"to":8,"why":"slow"}')->send("B news e1 8 m8\nstate")->send("C news e1 9 m9\nnine");
$heard(5);
$far->send('G {"channel":null,"from":1,"to":7,"why":"overflow"}')->send("M 8\neight");
$heard(7);
// The gap counts as handled when it was told: alone, where the message came a moment later.
do {
    $acknowledged = $far->read();
} while ($acknowledged === 'A 7');
echo $acknowledged, "\n";
$far->cut();
until($client, fn () => $client->state() !== WsState::Connected);
$far->accept();
echo json_encode($far->hello['resume']['ch']), ' ', $far->hello['resume']['s'], "\n";
// Another session: nobody knows what the last one had.
$far->welcome(['sid' => 'other', 'resumed' => false, 'why' => 'restart', 's0' => 1]);
$heard(8);
$client->unsubscribe('news');
$client->flush(0.1);
echo $far->read(), "\n";
echo $client->stats()['session']['gaps'], "\n";
echo thrown(fn () => $client->subscribe("a\nb")), "\n";
echo thrown(fn () => $client->unsubscribe('')), "\n";
$client->close();
echo thrown(fn () => $client->subscribe('news')), "\n";
$plain = new WsClient('ws://127.0.0.1:1', ['protocols' => []]);
echo thrown(fn () => $plain->subscribe('news')), "\n";
--EXPECT--
S news
S wet%20paint
WsException: the server denied the subscription to channel 'wet paint'
message news 5 m5 five
gap 'news' 6 8 slow
snapshot news state
message news 9 m9 nine
gap NULL 1 7 overflow
message  8 session:8 eight
A 8
{"news":{"e":"e1","o":9,"mid":"m9"}} 8
gap NULL 9 NULL restart
U news
3
ValueError: WsClient::subscribe(): Argument #1 ($channel) must be 1 to 255 bytes of UTF-8 without control characters
ValueError: WsClient::unsubscribe(): Argument #1 ($channel) must be 1 to 255 bytes of UTF-8 without control characters
WsException: the WsClient is closed
WsException: channels need the subprotocol lifeline.v1, and it is not in the option 'protocols'
