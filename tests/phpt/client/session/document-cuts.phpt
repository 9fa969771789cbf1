--TEST--
WsReplica: three clients and the server edit one document over links that are cut again and again, and see the same at the end
--FILE--
<?php
require __DIR__ . '/../../inc/client.php';
mt_srand(7);
// So little history that snapshots are needed, too.
$server = serve(['subscribe' => fn () => true], ['resume' => ['count' => 5]]);
$board = $server->document('board');
$clients = $replicas = [];
$conflicts = 0;
$told = [];
foreach (['serverWins', 'clientWins', fn ($key, $mine, $theirs) => max($mine ?? 0, $theirs ?? 0) + 1] as $n => $policy) {
    $clients[$n] = new WsClient($server->address(), ['reconnect' => ['first' => 0.001, 'floor' => 0.001, 'base' => 0.005, 'max' => 0.01]]);
    $replicas[$n] = $clients[$n]->document('board', ['conflict' => $policy]);
    $replicas[$n]->onConflict(function () use (&$conflicts) { $conflicts++; });
    $replicas[$n]->onChange(function ($key, $value, $version, $deleted) use ($n, &$told) {
        if ($deleted) { unset($told[$n][$key]); } else { $told[$n][$key] = $value; }
    });
    $clients[$n]->connect();
}
$edit = function (WsReplica|WsDocument $at, ?int $n) use (&$told): void {
    $key = 'k' . mt_rand(1, 4);
    if (mt_rand(1, 5) === 1) {
        $at->delete($key);
        unset($told[$n][$key]);
    } else {
        $at->set($key, $value = mt_rand(1, 1000));
        $told[$n][$key] = $value;
    }
};
for ($step = 0; $step < 400; $step++) {
    match (mt_rand(1, 8)) {
        1, 2, 3, 4 => $edit($replicas[$n = mt_rand(0, 2)], $n),
        5 => $edit($board, null),
        6 => array_map(fn ($connection) => mt_rand(1, 4) === 1 && $connection->abort(), [...$server->connections()]),
        default => $server->poll(0.002),
    };
}
$same = function () use ($clients, $replicas, $board, $server): bool {
    foreach ($clients as $n => $client) {
        if ($client->unacknowledged() > 0 || $replicas[$n]->get() != $board->get() || $replicas[$n]->version() !== $board->version()) {
            return false;
        }
    }
    return true;
};
until($server, function () use ($same, $server) { return $same() && $server->poll(0.05) === 0 && $same(); }, 'the same everywhere');
foreach ($told as $n => &$seen) {
    ksort($seen);
}
$last = $board->get();
ksort($last);
var_dump($told[0] == $last, $told[1] == $last, $told[2] == $last, $conflicts > 0, $board->version() > 50);
foreach ($clients as $client) {
    $client->close();
}
?>
--EXPECT--
bool(true)
bool(true)
bool(true)
bool(true)
bool(true)
