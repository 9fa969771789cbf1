--TEST--
A ring that is too small: a session without its tail is not resumed, and says what is missing
--FILE--
<?php
require __DIR__ . '/../inc/lifeline.php';
$server = serve(['open' => function ($c) use (&$conn) { $conn = $c; }], ['resume' => ['count' => 2]]);
$peer = LifelinePeer::open($server);
$conn->session['kept'] = true;
$peer->peer->cut();
pump($server, fn () => count($server) === 0);
foreach (['a', 'b', 'c', 'd'] as $data) {
    $conn->session->send($data);
}
$again = LifelinePeer::resume($server, $peer);
$welcome = $again->welcome();
echo json_encode([$welcome['sid'] === $peer->welcome['sid'], $welcome['resumed'], $welcome['why'], $welcome['s0']]), "\n";
echo $again->read(), "\n", $again->read(), "\n", $again->read(), "\n", $again->read(), "\n";
var_dump($conn->resumed, $conn->session['kept']);
?>
--EXPECT--
[true,false,"overflow",3]
G {"channel":null,"from":1,"to":2,"why":"overflow"}
M 3 | c
M 4 | d
R 4
bool(false)
bool(true)
