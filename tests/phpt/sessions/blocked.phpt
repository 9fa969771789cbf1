--TEST--
While PHP is blocked, sessions are made and resumed, beats answered and items taken; they are handled afterwards
--FILE--
<?php
require __DIR__ . '/../inc/lifeline.php';
$server = serve([
    'open' => function (WsConnection $c) use (&$conn) { $conn ??= $c; },
    'message' => function ($c, $data) use (&$server, &$peer, &$others, &$handled) {
        $handled[] = $data;
        if ($data !== 'block') {
            return;
        }
        // Nobody dispatches from here on: peers read what comes from the sockets alone.
        foreach ([[], ['resume' => ['sid' => $peer->welcome['sid'], 'tok' => $peer->welcome['tok'], 's' => 0, 'ch' => new stdClass]]] as $n => $hello) {
            $raw = new Peer($server->address(), '/', ['Sec-WebSocket-Protocol: lifeline.v1']);
            $raw->head();
            $outbox = ['id' => $n === 0 ? 'new' : 'box', 'gen' => 1, 'first' => $n === 0 ? 1 : 1, 'next' => 2];
            $raw->text('H ' . json_encode(['v' => 1, 'outbox' => $outbox] + $hello));
            $welcome = json_decode(substr($raw->read()[1], 2), true);
            echo $n === 0 ? 'new' : 'resumed', ' ', var_export($welcome['resumed'], true), "\n";
            $raw->text('I 5');
            do { $frame = $raw->next(); } while ($frame !== 'text O 5');
            $raw->text("P 1\n" . ($n === 0 ? 'from new' : 'block'));
            $others[] = $raw;
        }
        echo $peer->peer->next(), "\n";
        echo "end of the handler\n";
    },
    'close' => fn ($c, $code) => print("close $code\n"),
]);
$peer = LifelinePeer::open($server);
$peer->send("P 1\nblock");
pump($server, function () use (&$handled) { return count($handled ?? []) === 2; }, 'both');
var_dump($handled);
// The item whose handler ran is not delivered again to the connection that took over.
pump($server, function () use (&$others) { return $others[1]->poll('frame') === [0x81, 'A 1']; }, 'the acknowledgement');
// The handler holds its own server.
$server = $peer = $conn = $others = null;
?>
--EXPECT--
new false
resumed true
close 4502 superseded by another connection
end of the handler
close 4502
array(2) {
  [0]=>
  string(5) "block"
  [1]=>
  string(8) "from new"
}
