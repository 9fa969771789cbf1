--TEST--
workers: a session of lifeline.v1, its values and its user go along; an item whose worker has ended comes again
--EXTENSIONS--
lifeline
--FILE--
<?php
require __DIR__ . '/../inc/workers.php';
require __DIR__ . '/../inc/client.php';
$site = new Site(<<<'CODE'
$server = site();
$server->onAuth(fn ($r, ?string $token) => ['user' => "user of $token", 'worker' => getenv('LIFELINE_WORKER')]);
$server->onSubscribe(fn ($c, $channel) => $channel === 'open');
$server->onSnapshot(fn ($channel) => "state of $channel");
$server->onOpen(fn (WsConnection $c) => $c->session['opens'] = ($c->session['opens'] ?? 0) + 1);
$server->onMessage(function (WsConnection $c, string $data, bool $binary, WsMessage $m) use ($server) {
    $s = $c->session;
    $s['seen'] = [...($s['seen'] ?? []), $m->sequence];
    if ($data === 'die' && count(array_keys($s['seen'], $m->sequence)) === 1) {
        exec('kill -9 ' . getmypid());
    }
    if ($data === 'exit' && count(array_keys($s['seen'], $m->sequence)) === 1) {
        exit(1);
    }
    if ($data === 'reject') {
        throw new WsReject('not that');
    }
    $c->send(json_encode([$data, $s->all(), $c->user, $s->user, $c->resumed, $s->id === $server->session($s->id)?->id, $s->isOnline()]));
});
run_site($server);
CODE);
$client = new WsClient(str_replace('ws:', 'ws:', $site->address()), FAST);
$client->onToken(fn () => 'secret');
$got = $lost = $rejected = [];
$client->onMessage(function ($c, $data, $binary, $m) use (&$got) { $got[] = $m->channel === null ? $data : "$m->channel: $data"; });
$client->onClose(function ($c, $code) use (&$lost) { $lost[] = $code; });
$client->onReject(function ($sequence, $data, $code, $reason) use (&$rejected) { $rejected[] = "$sequence $reason"; });
$client->onGap(fn ($gap) => print("gap\n"));
$client->connect();
$take = function () use ($client, &$got) {
    until($client, function () use (&$got) { return $got !== []; }, 'an answer');
    return array_shift($got) . "\n";
};
$client->send('one');
echo $take();
$site->reload();
$client->send('two');
echo $take();
// Unacknowledged items are handled again, and what was sent behind them waits.
foreach (['die', 'three', 'exit', 'reject', 'four'] as $data) {
    $client->send($data);
}
foreach (range(1, 4) as $n) {
    $answer = json_decode($take());
    echo json_encode([$answer[0], $answer[1]->seen, $answer[1]->opens]), "\n";
}
echo json_encode([$lost, $rejected]), "\n";
$client->close();
?>
--EXPECT--
["one",{"opens":1,"seen":[1]},"user of secret","user of secret",false,true,true]
["two",{"opens":2,"seen":[1,2]},"user of secret","user of secret",true,true,true]
["die",[1,2,3,3],3]
["three",[1,2,3,3,4],3]
["exit",[1,2,3,3,4,5,5],4]
["four",[1,2,3,3,4,5,5,6,7],4]
[[],["6 not that"]]
