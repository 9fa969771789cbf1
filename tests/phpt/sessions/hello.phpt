--TEST--
A client of lifeline.v1: items are acknowledged when their handler has returned, messages go into the session's stream
--FILE--
<?php
require __DIR__ . '/../inc/lifeline.php';
$server = serve([
    'open' => function (WsConnection $c) use (&$conn) {
        if ($c->protocol === '') {
            var_dump($c->session, $c->resumed);
            return;
        }
        $conn = $c;
        var_dump($c->protocol, $c->resumed, $c->user, $c->session::class, $c->session->version, $c->session->claims);
    },
    'message' => function ($c, $data, $binary, WsMessage $m) {
        echo bin2hex($data), " {$m->id} {$m->sequence} ", var_export($m->channel, true), "\n";
        $c->send("got $data", $binary);
    },
]);
$peer = LifelinePeer::open($server);
var_dump($peer->welcome['sid'] === $conn->session->id, $server->session($conn->session->id) === $conn->session, $server->session('nobody'));
$peer->send("P 1\none");
$peer->expect('M 1 q=1 | got one');
$peer->send("P 2 s=1\ntwo");
$peer->expect('M 2 q=2 | got two');
$peer->peer->binary("P 3 s=2\n\xff");
$peer->expect("binary M 3 q=3 | got \xff");
$stats = $server->stats()['sessions'];
var_dump($stats['count'], $stats['connected'], $stats['unacknowledged']);
// A second frame before the answer to H, and no H at all.
$rude = new LifelinePeer($server);
$rude->send("P 1\nx");
echo $rude->read(), "\n";
var_dump(count($server));
// Others still speak plain WebSocket.
$plain = Peer::open($server);
$plain->text('P 1');
echo $plain->next($server), "\n";
?>
--EXPECT--
string(11) "lifeline.v1"
bool(false)
NULL
string(9) "WsSession"
int(0)
array(0) {
}
bool(true)
bool(true)
NULL
6f6e65 box:1 1 NULL
74776f box:2 2 NULL
ff box:3 3 NULL
int(1)
int(1)
int(1)
close 4501 the first frame is not H
int(1)
NULL
bool(false)
502031   NULL
text got P 1
