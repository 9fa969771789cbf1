--TEST--
workers: the end of a session is told once, and known to every worker that has seen the session
--EXTENSIONS--
lifeline
--FILE--
<?php
require __DIR__ . '/../inc/workers.php';
require __DIR__ . '/../inc/client.php';
$site = new Site(<<<'CODE'
$server = site(['resume' => ['ttl' => 0.2]]);
$seen = [];
$server->onOpen(function (WsConnection $c) { if ($c->session) { $c->session['of'] = getenv('LIFELINE_WORKER'); $c->send($c->session->id); } });
$server->onMessage(function (WsConnection $c, string $data) use ($server, &$seen) {
    [$what, $id] = explode(' ', $data) + [1 => ''];
    if ($what === 'look') {
        $seen[$id] = $server->session($id);
        // Of each worker, that of the session among them.
        $c->send(getenv('LIFELINE_WORKER') . ' ' . json_encode($seen[$id]?->all()));
    } else {
        try {
            $answer = json_encode([$server->session($id)?->id, $seen[$id]->isOnline(), $seen[$id]['of']]);
        } catch (WsException) {
            $answer = 'it has just ended';
        }
        $c->send(getenv('LIFELINE_WORKER') . " $answer");
    }
});
$server->onSessionEnd(fn (WsSession $s) => file_put_contents(__DIR__ . '/ends', json_encode([$s->isOnline(), isset($s['of'])]) . "\n", FILE_APPEND));
run_site($server);
CODE);
$peers = [$site->peer(), $site->peer()];
$client = new WsClient($site->address());
$client->onMessage(function ($c, $data) use (&$id) { $id = $data; });
$client->connect();
until($client, function () use (&$id) { return $id !== null; }, 'the session');
$answers = array_map(fn ($peer) => $site->ask($peer, "look $id"), $peers);
sort($answers);
echo preg_replace('~of":"\d~', 'of":"N', implode("\n", $answers)), "\n";
$client->close();
until($client, fn () => $client->state() === WsState::Closed, 'the close');
meanwhile(fn () => is_file("$site->directory/ends"), 'the end of the session');
foreach ($peers as $peer) {
    meanwhile(function () use ($site, $peer, $id, &$answer) {
        $answer = substr($site->ask($peer, "ended $id"), 2);
        return str_starts_with($answer, '[null');
    }, 'the end in each worker');
    echo preg_replace('~"\d"~', 'N', $answer), "\n";
}
echo file_get_contents("$site->directory/ends");
?>
--EXPECT--
1 {"of":"N"}
2 {"of":"N"}
[null,false,N]
[null,false,N]
[false,true]
