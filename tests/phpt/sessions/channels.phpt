--TEST--
Channels: clients ask, the server subscribes; logs for lifeline.v1, the payload alone for plain connections
--FILE--
<?php
require __DIR__ . '/../inc/lifeline.php';
$server = serve([
    'subscribe' => function (WsConnection $c, string $channel) {
        echo "subscribe $channel\n";
        return match ($channel) { 'news', 'a b' => true, 'odd' => 1, default => false };
    },
    'open' => function ($c) use (&$conn) { $conn = $c; },
    'join' => function ($channel, $c) use (&$moves) { $moves[] = "join $channel"; },
    'leave' => function ($channel, $c) use (&$moves) { $moves[] = "leave $channel"; },
    'error' => fn ($e) => print(get_class($e) . ": {$e->getMessage()}\n"),
    'close' => fn ($c, $code) => print("close $code\n"),
]);
$k = fn ($peer) => preg_replace('/,"e":.*/', '', $peer->read());
$c = fn ($peer) => preg_replace('/ (\d+) \S{11}( |$)/', ' $1 MID$2', preg_replace('/(C \S+) \S{8}/', '$1 EPOCH', $peer->read()));
$peer = LifelinePeer::open($server);
$first = $conn;
$peer->send('S news');
echo $k($peer), "\n";
$peer->send('S secret');
echo $k($peer), "\n";
$peer->send('S a%20b');
echo $k($peer), "\n";
foreach ([$first->channels(), $server->channels()] as $channels) {
    sort($channels);
    echo implode(', ', $channels), "\n";
}
$plain = Peer::open($server);
$conn->subscribe('news');
var_dump(count($server->members('news')));
var_dump($server->publish('news', 'one'));
echo $c($peer), "\n", $plain->next($server), "\n";
var_dump($server->publish('news', 'two', true, [$conn]));
echo $c($peer), "\n";
var_dump($server->publish('news', 'three', false, [$first]));
echo $plain->next($server), "\n", $k($peer), " (skips it)\n";
var_dump($server->publish('news', 'four'));
echo $c($peer), "\n", $plain->next($server), "\n";
$peer->send('U news');
echo $k($peer), "\n";
echo "- made by the server\n";
$first->subscribe('orders/7');
echo $k($peer), "\n";
$first->unsubscribe('orders/7');
echo $k($peer), "\n";
$first->subscribe('orders/8');
echo $k($peer), "\n";
$peer->peer->cut();
pump($server, fn () => count($server) === 1);
$server->publish('orders/8', 'while away');
$again = LifelinePeer::resume($server, $peer);
var_dump($again->welcome()['resumed']);
echo $k($again), "\n", $c($again), "\n", $again->read(), "\n";
pump($server, function () use (&$conn) { return $conn->resumed; });
echo implode(', ', $conn->channels()), "\n";
echo "- callbacks that fail\n";
$again->send('S odd');
do { $frame = $again->read(); } while (!str_starts_with($frame, 'close'));
echo $frame, "\n";
pump($server, fn () => count($server) === 1);
sort($moves);
echo implode(', ', $moves), "\n";
?>
--EXPECT--
subscribe news
K {"ch":"news","st":"ok"
subscribe secret
K {"ch":"secret","st":"denied"}
subscribe a b
K {"ch":"a b","st":"ok"
a b, news
a b, news
int(2)
int(2)
C news EPOCH 1 MID | one
text one
int(1)
binary C news EPOCH 2 MID | two
int(1)
text three
K {"ch":"news","st":"ok" (skips it)
int(2)
C news EPOCH 4 MID | four
text four
K {"ch":"news","st":"left"}
- made by the server
K {"ch":"orders/7","st":"ok"
K {"ch":"orders/7","st":"left"}
K {"ch":"orders/8","st":"ok"
close 1006
bool(true)
K {"ch":"orders/8","st":"ok"
C orders/8 EPOCH 1 MID | while away
R 0
orders/8
- callbacks that fail
subscribe odd
TypeError: onSubscribe must return bool, int returned
close 1011
close 1011
join a b, join news, join news, join orders/7, join orders/8, join orders/8, leave a b, leave news, leave orders/7, leave orders/8, leave orders/8
