--TEST--
workers: a connection goes to another worker when its handler has ended, suspended or deferred as it may be; others go at once
--EXTENSIONS--
lifeline
--FILE--
<?php
require __DIR__ . '/../inc/workers.php';
$site = new Site(<<<'CODE'
$server = site(['workers' => 1]);
$kept = $held = [];
$server->onMessage(function (WsConnection $c, string $data, bool $binary, WsMessage $m) use ($server, &$kept, &$held) {
    $me = getmypid();
    switch ($data) {
        case 'pid': $c->send((string) $me); break;
        case 'defer': $m->defer(); $kept[$c->id] = $m; $c->send("deferred by $me"); break;
        case 'suspend':
            // In a fiber of its own; the handler has returned, and the message with it.
            $m->defer();
            $fiber = new Fiber(function () use ($c, $m, $me) {
                $c->send("suspended by $me");
                $how = Fiber::suspend();
                $c->send("resumed by " . getmypid() . " $how");
                $m->ack();
            });
            $fiber->start();
            $kept[$c->id] = $fiber;
            break;
        case 'hold': $held[] = $c; $c->data = 'held'; $c->send((string) $me); break;
    }
});
// What the test wants: a file names the connection whose handler is to go on.
$server->every(0.01, function () use (&$kept, &$held) {
    foreach ($kept as $id => $what) {
        if (@unlink(__DIR__ . "/go-$id")) {
            unset($kept[$id]);
            $what instanceof Fiber ? $what->resume('well') : $what->ack();
        }
    }
    foreach ($held as $n => $c) {
        if (@unlink(__DIR__ . '/held')) {
            // Another worker's by now.
            $c->send('held by ' . getmypid() . ' ' . json_encode([$c->isOpen(), $c->data]));
            unset($held[$n]);
        }
    }
});
run_site($server);
CODE);
[$deferred, $suspended, $free, $held] = [$site->peer(), $site->peer(), $site->peer(), $site->peer()];
$old = $site->ask($free, 'pid');
echo str_replace($old, 'OLD', $site->ask($deferred, 'defer')), "\n", str_replace($old, 'OLD', $site->ask($suspended, 'suspend')), "\n";
$site->ask($held, 'hold');
// Behind the handlers: they are to wait for them, and go to the new worker in their order.
foreach ([$deferred, $suspended] as $peer) {
    $peer->text('pid');
    $peer->text('nothing');
    $peer->text('pid');
}
$site->reload();
meanwhile(fn () => $site->ask($free, 'pid') !== $old, 'the new worker');
$new = $site->ask($free, 'pid');
meanwhile(fn () => $site->ask($held, 'pid') === $new, 'the new worker');
echo is_dir("/proc/$old") ? "the old one is still there\n" : "gone\n";
touch("$site->directory/held");
echo strtr($held->next(), [$old => 'OLD', $new => 'NEW']), "\n";
echo json_encode([$deferred->poll('frame'), $suspended->poll('frame')]), "\n";
touch("$site->directory/go-1");
touch("$site->directory/go-2");
$names = [$old => 'OLD', $new => 'NEW'];
// What waited behind a handler of the old worker in its process is dealt with there, before the connection goes.
$where = function (Peer $peer) use ($names): string {
    return strtr($peer->next(), $names);
};
echo $where($suspended), "\n";
foreach ([$deferred, $suspended] as $peer) {
    $got = [$where($peer), $where($peer)];
    echo in_array($got, [['text OLD', 'text OLD'], ['text OLD', 'text NEW'], ['text NEW', 'text NEW']], true) ? 'in order' : implode(', ', $got), ', ';
    echo strtr($site->ask($peer, 'pid'), $names), "\n";
}
meanwhile(function () use ($old) {
    clearstatcache();
    return !is_dir("/proc/$old");
}, 'the end of the old worker');
echo "gone\n";
?>
--EXPECT--
deferred by OLD
suspended by OLD
the old one is still there
text held by OLD [true,"held"]
[null,null]
text resumed by OLD well
in order, NEW
in order, NEW
gone
