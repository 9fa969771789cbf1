--TEST--
Who shows the session's token gets it at once; the half-open predecessor's end is told first
--FILE--
<?php
require __DIR__ . '/../inc/lifeline.php';
$server = serve([
    'open' => function ($c) use (&$conn) { $conn = $c; echo "open $c->id\n"; },
    'close' => fn ($c, $code, $reason, $clean) => print("close $c->id $code " . var_export($clean, true) . "\n"),
    'join' => fn ($channel, $c) => print("join $channel $c->id\n"),
    'leave' => fn ($channel, $c) => print("leave $channel $c->id\n"),
]);
$old = LifelinePeer::open($server);
$conn->subscribe('room');
$old->read();
$conn->send('one');
$old->expect('M 1 | one');
$new = LifelinePeer::resume($server, $old, handled: 0);
var_dump($new->welcome()['resumed']);
$new->until('R 1');
var_dump(count($server), $server->members('room') === [$conn]);
echo $old->read(), "\n", $old->read(), "\n";
// Two connections of one user are two sessions.
$other = LifelinePeer::open($server, 'other');
var_dump($other->welcome['sid'] !== $new->welcome['sid'], count($server));
?>
--EXPECT--
open 1
join room 1
leave room 1
close 1 4502 false
open 2
join room 2
bool(true)
int(1)
bool(true)
close 4502 superseded by another connection
end
open 3
bool(true)
int(2)
