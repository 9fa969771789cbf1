--TEST--
A client of lifeline.v1: items are acknowledged when their handler has returned, messages go into the session's stream
--EXTENSIONS--
lifeline
--FILE--
<?php
require __DIR__ . '/../inc/lifeline.php';
$server = serve([
    'open' => function (WsConnection $c) use (&$conn) {
        $conn = $c;
        var_dump($c->protocol, $c->resumed, $c->user, $c->session::class, $c->session->version, $c->session->claims);
    },
    'message' => function ($c, $data, $binary, WsMessage $m) {
        echo "$data {$m->id} {$m->sequence} ", var_export($m->channel, true), "\n";
        $c->send("got $data");
    },
]);
$peer = LifelinePeer::open($server);
var_dump($peer->welcome['sid'] === $conn->session->id, $server->session($conn->session->id) === $conn->session, $server->session('nobody'));
$peer->send("P 1\none");
$peer->expect('M 1 q=1 | got one');
$peer->send("P 2 s=1\ntwo");
$peer->expect('M 2 q=2 | got two');
$peer->peer->binary("P 3 s=2\n\xff");
$peer->expect('binary x');
?>
--EXPECTF--
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
