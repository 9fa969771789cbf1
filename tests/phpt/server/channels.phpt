--TEST--
Channels: subscribe, publish with except, members, onJoin and onLeave
--FILE--
<?php
require __DIR__ . '/../inc/ws.php';
$server = serve([
    'message' => function ($c, $data) { [$verb, $channel] = explode(' ', $data); $c->$verb($channel); },
    'join' => function (string $channel, WsConnection $c) { echo "join $channel $c->id\n"; },
    'leave' => function (string $channel, WsConnection $c) { echo "leave $channel $c->id\n"; },
]);
$peers = [Peer::open($server), Peer::open($server), Peer::open($server)];
[$a, $b, $c] = $server->connections();
$ids = fn (array $all) => implode(',', array_map(fn ($c) => $c->id, $all));
$a->subscribe('news');
$a->subscribe('news');
$peers[1]->text('subscribe news');
pump($server, fn () => count($server->members('news')) === 2);
$b->subscribe('größe');
pump($server, fn () => count($server->members('größe')) === 1);
$server->poll();
echo $ids($server->members('news')), ' ', $ids($server->members('none')), ' ', implode(',', $b->channels()), "\n";
$all = $server->channels();
sort($all);
echo implode(',', $all), "\n";
var_dump($server->publish('news', 'first'), $server->publish('news', 'second', except: [$a]), $server->publish('news', "\xff", true, [$b->id]), $server->publish('none', 'x'));
echo $peers[0]->next($server), ' ', $peers[0]->next($server), ' ', $peers[1]->next($server), ' ', $peers[1]->next($server), "\n";
$a->unsubscribe('news');
$a->unsubscribe('news');
$peers[1]->close();
pump($server, fn () => count($server) === 2 && count($server->channels()) === 0);
$server->poll();
var_dump($server->publish('news', 'x'));
?>
--EXPECT--
join news 1
join news 2
join größe 2
1,2  news,größe
größe,news
int(2)
int(1)
int(1)
int(0)
text first binary ff text first text second
leave news 1
leave news 2
leave größe 2
int(0)
