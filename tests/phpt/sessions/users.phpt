--TEST--
sendToUser, disconnectUser and bind() with sessions, also of those who are away
--FILE--
<?php
require __DIR__ . '/../inc/lifeline.php';
$server = serve([
    'auth' => fn ($r, $token) => ['user' => $token],
    'open' => function ($c) use (&$conn) { $conn = $c; },
    'close' => fn ($c, $code) => print("close $code\n"),
]);
$ann = LifelinePeer::open($server, 'ann', ['auth' => 'ann']);
$away = LifelinePeer::open($server, 'away', ['auth' => 'ann']);
$away->peer->cut();
pump($server, fn () => count($server) === 1);
$bob = LifelinePeer::open($server, 'bob', ['auth' => 'bob']);
var_dump($server->sendToUser('ann', 'hi'), $server->sendToUser('nobody', 'hi'));
$ann->expect('M 1 | hi');
$again = LifelinePeer::resume($server, $away, more: ['auth' => 'ann']);
$again->welcome();
$again->expect('M 1 | hi');
$again->expect('R 1');
$conn->bind('carl');
var_dump($conn->user, $conn->session->user, $server->sendToUser('carl', 'x'), $server->sendToUser('ann', 'y'));
$again->expect('M 2 | x');
$ann->expect('M 2 | y');
var_dump($server->broadcast('all', false, [$conn]));
$ann->expect('M 3 | all');
$bob->expect('M 1 | all');
var_dump($server->disconnectUser('ann'));
echo $ann->read(), "\n";
pump($server, fn () => false === $server->isOnline('ann'));
?>
--EXPECT--
close 1006
int(2)
int(0)
string(4) "carl"
string(4) "carl"
int(1)
int(1)
int(2)
int(1)
close 4503
close 4503
