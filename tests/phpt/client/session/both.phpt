--TEST--
WsServer and WsClient with lifeline.v1: credentials, items, refusals, channels, a link that is cut, the server's farewell
--EXTENSIONS--
lifeline
--FILE--
<?php
require __DIR__ . '/../../inc/client.php';
$handled = [];
$server = serve([
    'auth' => fn (WsRequest $r, ?string $token) => $token === 'good' ? ['user' => 'ann'] : false,
    'subscribe' => fn (WsConnection $c, string $channel) => $channel === 'news',
    'message' => function (WsConnection $c, string $data, bool $binary, WsMessage $m) use (&$handled) {
        $handled[] = "$m->sequence $data";
        if ($data === 'bad') {
            $m->reject('no such thing', 7);
        }
    },
]);
$client = new WsClient($server->address(), FAST);
$heard = [];
$say = function (string $text) use (&$heard) { $heard[] = $text; };
$client
    ->onToken(fn () => 'good')
    ->onOpen(fn (WsClient $c, bool $resumed) => $say('open ' . var_export($resumed, true)))
    ->onClose(fn (WsClient $c, int $code) => $say("close $code"))
    ->onMessage(fn (WsClient $c, string $data, bool $b, WsMessage $m) => $say("message $m->channel $m->sequence $data"))
    ->onReject(fn (int $sequence, string $data, int $code, string $reason) => $say("reject $sequence $data $code $reason"))
    ->onError(fn (Throwable $e) => $say($e->getMessage()));
$told = function () use (&$heard) {
    echo implode("\n", $heard), "\n--\n";
    $heard = [];
};
$wait = function (int $count) use ($client, &$heard) {
    until($client, function () use (&$heard, $count) { return count($heard) >= $count; }, "$count events");
};
$client->sendMany(['hello', 'bad', 'last']);
var_dump($client->flush(20), $client->unacknowledged());
echo implode(', ', $handled), "\n";
$wait(2);
$told();

$client->subscribe('news');
$client->subscribe('secrets');
$wait(1);
until($client, fn () => $server->members('news') !== []);
$server->publish('news', 'today');
$server->sendToUser('ann', 'for you');
$wait(3);
sort($heard);
$told();

// The link is cut without a word: what is said meanwhile comes later.
foreach ($server->connections() as $connection) {
    $session = $connection->session;
    $connection->abort();
}
$session->send('while you were away');
$client->send('and from me');
$wait(3);
$told();
until($client, fn () => $client->unacknowledged() === 0);
echo end($handled), "\n";
$stats = $client->stats()['session'];
echo "$stats[resumed] $stats[gaps] $stats[rejected]\n";

// Asked to leave, it does; nobody is there any more, and no error is told.
$server->stop(0.2);
$client->after(0.5, fn () => $client->close());
$client->run();
echo $heard[0], "\n", count(array_filter($heard, fn ($text) => !str_starts_with($text, 'close'))), "\n";
--EXPECT--
bool(true)
int(0)
1 hello, 2 bad, 3 last
open false
reject 2 bad 7 no such thing
--
message  1 for you
message news 1 today
the server denied the subscription to channel 'secrets'
--
close 1006
open true
message  2 while you were away
--
4 and from me
1 0 1
close 1001
0
