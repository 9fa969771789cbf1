--TEST--
workers: by a parameter of the query, connections with the same value share a worker, and what it keeps for them, also after a reload
--EXTENSIONS--
lifeline
--FILE--
<?php
require __DIR__ . '/../inc/workers.php';
$site = new Site(<<<'CODE'
$server = site(['workers' => ['count' => 2, 'by' => 'query:room']]);
$rooms = [];
$server->onMessage(function (WsConnection $c, string $data) use (&$rooms) {
    $room = $c->handshake()->query['room'];
    $rooms[$room][] = $data;
    $c->send(getmypid() . ' ' . implode(',', $rooms[$room]));
});
run_site($server);
CODE);
$peers = [];
foreach (['a', 'b', 'c', 'd'] as $room) {
    foreach ([1, 2, 3] as $n) {
        $peers[$room][] = $site->peer("/?room=$room&n=$n");
    }
}
$say = function (string $data) use ($peers, $site): array {
    $pids = [];
    foreach ($peers as $room => $of) {
        foreach ($of as $n => $peer) {
            [$pid, $kept] = explode(' ', $site->ask($peer, $data . $n));
            $pids[$room][$pid] = true;
        }
        echo "$room: ", count($pids[$room]), " worker, $kept\n";
    }
    return array_map(key(...), $pids);
};
$before = $say('x');
$site->reload();
meanwhile(fn () => array_all_differ($before, $site, $peers), 'the reload');
$say('y');

function array_all_differ(array $before, Site $site, array $peers): bool
{
    foreach ($peers as $room => $of) {
        foreach ($of as $peer) {
            if (explode(' ', $site->ask($peer, '-'))[0] === (string) $before[$room]) {
                return false;
            }
        }
    }
    return true;
}
?>
--EXPECTREGEX--
a: 1 worker, x0,x1,x2
b: 1 worker, x0,x1,x2
c: 1 worker, x0,x1,x2
d: 1 worker, x0,x1,x2
a: 1 worker, (-,)*y0,y1,y2
b: 1 worker, (-,)*y0,y1,y2
c: 1 worker, (-,)*y0,y1,y2
d: 1 worker, (-,)*y0,y1,y2
