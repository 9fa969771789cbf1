--TEST--
workers: a worker has clients of its own, whose connections and timers are nobody else's; documents and what is published reach all
--EXTENSIONS--
lifeline
--FILE--
<?php
require __DIR__ . '/../inc/workers.php';
require __DIR__ . '/../inc/client.php';
$far = echo_server();
putenv('FAR=' . $far->address());
$site = new Site(<<<'CODE'
$server = site();
$server->onSubscribe(fn () => true);
$client = null;
$server->onMessage(function (WsConnection $c, string $data) use ($server, &$client) {
    if ($data === 'where') {
        $c->send(getenv('LIFELINE_WORKER'));
    } elseif (str_starts_with($data, 'set ')) {
        $document = $server->document('paper');
        $document->set('by', substr($data, 4));
        $c->send(json_encode($document->get()));
    } elseif ($data === 'get') {
        $c->send(json_encode($server->document('paper')->get()));
    } else {
        $client ??= (function () {
            $client = new WsClient(getenv('FAR'));
            $client->onMessage(function ($client, string $data) {
                [$id, $text] = explode(' ', $data, 2);
                $GLOBALS['server']->connection((int) $id)->send("far: $text");
            });
            $client->connect();
            return $client;
        })();
        $client->send("$c->id $data");
    }
});
run_site($server);
CODE);
$peers = [$site->peer(), $site->peer()];
$ask = function (Peer $peer, string $text) use ($far): string {
    $peer->text($text);
    return $peer->next($far);
};
$where = array_map(fn ($peer) => $ask($peer, 'where'), $peers);
sort($where);
echo implode(', ', $where), "\n";
foreach ($peers as $n => $peer) {
    echo $ask($peer, "hello $n"), ', ', $ask($peer, "again $n"), "\n";
}
echo count($far), " clients\n";
echo $ask($peers[0], 'set one'), ' ', $ask($peers[1], 'get'), "\n";
echo $ask($peers[1], 'set two'), ' ', $ask($peers[0], 'get'), "\n";
?>
--EXPECT--
text 1, text 2
text far: hello 0, text far: again 0
text far: hello 1, text far: again 1
2 clients
text {"by":"one"} text {"by":"one"}
text {"by":"two"} text {"by":"two"}
