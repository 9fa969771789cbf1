--TEST--
What callbacks have sent leaves while a callback blocks: its own messages, and others' of the same batch
--EXTENSIONS--
lifeline
--FILE--
<?php
require __DIR__ . '/../inc/ws.php';
/** Blocks until the peer has a message, as a query that takes long would: nothing is dispatched. */
function arrived(Peer $peer): string
{
    $end = microtime(true) + LIMIT;
    while (!($frame = $peer->poll('frame')) && microtime(true) < $end) {
        usleep(1000);
    }
    return $frame[1] ?? 'nothing';
}
foreach (['run', 'stream'] as $loop) {
    $count = 0;
    $server = serve(['message' => function (WsConnection $c, string $data) use (&$one, &$two, &$count, &$done) {
        $c->send("to $data");
        if (++$count === 2) {
            echo arrived($one), ', ', arrived($two), "\n";
            $c->send('more');
            echo arrived($data === 'one' ? $one : $two), "\n";
            $done = true;
        }
    }]);
    [$one, $two] = [Peer::open($server), Peer::open($server)];
    $done = false;
    if ($loop === 'stream') {
        $server->stream();
    }
    $one->text('one');
    $two->text('two');
    pump($server, function () use (&$done) { return $done; }, 'the messages');
}
?>
--EXPECT--
to one, to two
more
to one, to two
more
