--TEST--
workers: broadcast, publish, users, members and connections are those of all workers, from each of them
--EXTENSIONS--
lifeline
--FILE--
<?php
require __DIR__ . '/../inc/workers.php';
$site = new Site(<<<'CODE'
$server = site();
$ids = function (iterable $connections) {
    $ids = array_map(fn (WsConnection $c) => $c->id, [...$connections]);
    sort($ids);
    return implode(',', $ids);
};
$channels = function () use ($server) {
    $names = $server->channels();
    sort($names);
    return $names;
};
$server->onOpen(function (WsConnection $c, WsRequest $r) {
    $c->data = 'mine';
    $c->bind("user-{$r->query['n']}");
    $c->subscribe($r->query['n'] % 2 ? 'odd' : 'even');
});
$server->onMessage(function (WsConnection $c, string $data) use ($server, $ids, $channels) {
    $words = explode(' ', $data);
    $other = fn () => $server->connection((int) $words[1]);
    $answer = match ($words[0]) {
        'who' => getenv('LIFELINE_WORKER') . " $c->id",
        'counts' => json_encode([count($server), $ids($server->connections()), $ids($server->members('odd')), $channels(),
            $ids($server->connectionsOf('user-2')), $server->isOnline('user-3'), $server->isOnline('user-9'), $server->connection(99)]),
        'broadcast' => $server->broadcast('to all', false, [$c]),
        'publish' => $server->publish('odd', 'to odd ones', false, [$c->id]),
        'user' => $server->sendToUser('user-4', 'to four'),
        'disconnect' => $server->disconnectUser("user-$words[1]", 4503, 'enough'),
        'look' => json_encode([$other()->data, $other()->user, $other()->path, $other()->protocol, $other()->resumed, $other()->session,
            $other()->isOpen(), $other()->channels(), $other()->rtt(), $other()->bufferedBytes(), $other()->handshake()->query,
            $other()->stats() !== [], $other() === $c]),
        'send' => json_encode($other()->send('from another')),
        'long' => json_encode($other()->send(str_repeat('x', 100000))),
        'subscribe' => json_encode([$other()->subscribe('third'), $ids($server->members('third')), $other()->unsubscribe('third'), $channels()]),
        'bind' => json_encode([$other()->bind('renamed'), $other()->user, $ids($server->connectionsOf('renamed'))]),
        'close' => json_encode([$other()->close(4000, 'by another'), $other()?->isOpen()]),
        'closed' => json_encode([$other()]),
        'stats' => json_encode([$server->stats()['connections']['open']]),
    };
    $c->send((string) $answer);
});
run_site($server);
CODE);
$peers = $where = [];
foreach (range(1, 4) as $n) {
    $peers[$n] = $site->peer("/?n=$n");
    [$worker, $id] = explode(' ', $site->ask($peers[$n], 'who'));
    $where[$worker][] = $n;
    echo $id, $id === '4' ? "\n" : ' ';
}
ksort($where);
echo implode(' ', array_map(count(...), $where)), "\n";
// They are served by different workers.
[$one, $far] = [$where[1][0], $where[2][0]];
foreach ($peers as $n => $peer) {
    echo $site->ask($peer, 'counts'), "\n";
}
echo $site->ask($peers[1], 'broadcast'), ': ', implode(', ', array_map(fn ($n) => $peers[$n]->next(), [2, 3, 4])), "\n";
echo $site->ask($peers[2], 'publish'), ': ', $peers[1]->next(), ', ', $peers[3]->next(), "\n";
echo $site->ask($peers[1], 'user'), ': ', $peers[4]->next(), "\n";
foreach ([$one, $far] as $n) {
    echo strtr($site->ask($peers[$one], "look $n"), ["user-$n" => 'user', "\"$n\"" => 'n', $n % 2 ? 'odd' : 'even' => 'parity']), "\n";
}
echo $site->ask($peers[$one], "send $far"), ' ', $peers[$far]->next(), "\n";
echo $site->ask($peers[$one], "long $far"), ' ', strlen($peers[$far]->next()), "\n";
echo str_replace("\"$far\"", 'far', $site->ask($peers[$one], "subscribe $far")), "\n";
echo str_replace("\"$far\"", 'far', $site->ask($peers[$one], "bind $far")), "\n";
$both = min($one, $far) . ',' . max($one, $far);
echo str_replace($both, 'both', $site->ask($peers[$far], "bind $one")), "\n";
echo $site->ask($peers[4], 'stats'), "\n";
// Of those that are left, one of each kind is bound as it was.
$third = $one === 3 || $far === 3 ? 4 : 3;
echo $site->ask($peers[$one], "disconnect $third"), ' ', $peers[$third]->next(), "\n";
echo $site->ask($peers[$one], "close $far"), ' ', $peers[$far]->next(), "\n";
$peers[$far]->close(4000);
meanwhile(fn () => $site->ask($peers[$one], "closed $far") === '[null]', 'null for who has gone');
?>
--EXPECT--
1 2 3 4
2 2
[4,"1,2,3,4","1,3",["even","odd"],"2",true,false,null]
[4,"1,2,3,4","1,3",["even","odd"],"2",true,false,null]
[4,"1,2,3,4","1,3",["even","odd"],"2",true,false,null]
[4,"1,2,3,4","1,3",["even","odd"],"2",true,false,null]
3: text to all, text to all, text to all
2: text to odd ones, text to odd ones
1: text to four
["mine","user","\/","",false,null,true,["parity"],null,0,{"n":n},true,true]
[null,"user","\/","",false,null,true,["parity"],null,0,{"n":n},true,false]
true text from another
true 100005
[null,far,null,["even","odd"]]
[null,"renamed",far]
[null,"renamed","both"]
[4]
1 close 1008 enough
[null,false] close 4000 by another
