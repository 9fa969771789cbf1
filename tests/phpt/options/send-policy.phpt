--TEST--
send.policy: a peer that does not read is closed with 4002, or loses the newest or the oldest
--EXTENSIONS--
lifeline
--FILE--
<?php
require __DIR__ . '/../inc/ws.php';
const CHUNK = 100000;
foreach (['close', 'dropNewest', 'dropOldest'] as $policy) {
    $server = serve(['close' => function ($c, int $code) use (&$closed) { $closed = $code; }, 'error' => function () {}],
        ['send' => ['limit' => 5 * CHUNK, 'policy' => $policy], 'logLevel' => 'emergency']);
    $peer = Peer::open($server);
    [$c] = $server->connections();
    $closed = null;
    $results = [];
    // More than the kernel takes.
    for ($i = 0; $i < 400 && $closed === null; $i++) {
        $results[] = $c->send(str_pad("$i ", CHUNK, 'x'));
        $server->poll(0);
    }
    if ($policy === 'close') {
        // It would not read the close frame either, for which limits.handshakeTimeout waits.
        $peer->cut();
        pump($server, function () use (&$closed) { return $closed !== null; }, 'the close');
        echo "$policy: $closed\n";
        continue;
    }
    echo "$policy: ", in_array(false, $results, true) ? 'told by send()' : 'not told', ', ';
    var_dump($server->stats()['messages']['dropped'] > 0);
    $c->close(1000);
    $numbers = [];
    while (($frame = $peer->read($server)) && $frame[0] === 0x81) { $numbers[] = (int) $frame[1]; }
    $sorted = $numbers;
    sort($sorted);
    echo $numbers === $sorted ? 'in order, ' : 'mixed up, ', $numbers[0], ' ', in_array(399, $numbers) ? 'with' : 'without', " the last\n";
}
?>
--EXPECT--
close: 4002
dropNewest: told by send(), bool(true)
in order, 0 without the last
dropOldest: not told, bool(true)
in order, 0 with the last
