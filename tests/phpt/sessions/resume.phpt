--TEST--
A session outlives its connection: the same WsSession, its values, and what was sent meanwhile
--FILE--
<?php
require __DIR__ . '/../inc/lifeline.php';
$server = serve([
    'open' => function (WsConnection $c) use (&$conn) {
        $conn = $c;
        echo 'open ', var_export($c->resumed, true), "\n";
    },
    'close' => function ($c, $code, $reason, $clean) { echo "close $code ", var_export($clean, true), "\n"; },
]);
$peer = LifelinePeer::open($server);
$session = $conn->session;
$session['cart'] = ['apple', 2];
$conn->send('one');
$peer->expect('M 1 | one');
$first = $conn;
$peer->peer->cut();
pump($server, fn () => count($server) === 0);
var_dump($session->isOnline(), $first->isOpen());
// Into the session's stream.
var_dump($first->send('two'), $session->send('three'), $server->broadcast('four'));
$again = LifelinePeer::resume($server, $peer, handled: 1);
$welcome = $again->welcome();
var_dump($welcome['resumed'], $welcome['s0'], $welcome['tok'] !== $peer->welcome['tok']);
$again->expect('M 2 | two');
$again->expect('M 3 | three');
$again->expect('M 4 | four');
$again->expect('R 4');
var_dump($conn !== $first, $conn->session === $session, $session->isOnline(), $session->all(), $session->version);
$again->send('A 4');
$again->peer->close(1000);
pump($server, fn () => count($server) === 0);
// A token of long ago is good for nothing.
$thief = LifelinePeer::resume($server, $peer, handled: 0);
echo json_encode(array_intersect_key($thief->welcome(), ['resumed' => 1, 'why' => 1])), "\n";
var_dump($thief->welcome['sid'] !== $peer->welcome['sid'], $conn->session->all());
$stats = $server->stats()['sessions'];
var_dump($stats['count'], $stats['connected'], $stats['resumed'], $stats['replayed']);
?>
--EXPECT--
open false
close 1006 false
bool(false)
bool(false)
bool(true)
int(3)
int(1)
open true
bool(true)
int(2)
bool(true)
bool(true)
bool(true)
bool(true)
array(1) {
  ["cart"]=>
  array(2) {
    [0]=>
    string(5) "apple"
    [1]=>
    int(2)
  }
}
int(1)
close 1000 true
open false
{"resumed":false,"why":"superseded"}
bool(true)
array(0) {
}
int(2)
int(1)
int(1)
int(3)
