--TEST--
A session ends when its client has not come back within resume.ttl; its values can still be read
--FILE--
<?php
require __DIR__ . '/../inc/lifeline.php';
$server = serve([
    'open' => function ($c) use (&$session) { $session ??= $c->session; },
    'sessionEnd' => function (WsSession $s) use (&$ended) { $ended = $s; },
], ['resume' => ['ttl' => 0.2]]);
$peer = LifelinePeer::open($server);
$session['a'] = 1;
$peer->peer->cut();
pump($server, function () use (&$ended) { return $ended !== null; }, 'the end of the session');
var_dump($ended === $session, $ended['a'], $ended->all(), $ended->isOnline(), $server->session($ended->id));
foreach ([fn () => $ended['b'] = 1, fn () => $ended->delete('a'), fn () => $ended->send('x'), fn () => $ended->update(fn ($a) => $a)] as $try) {
    try { $try(); echo "worked\n"; } catch (WsException $e) { echo str_replace($ended->id, 'ID', $e->getMessage()), "\n"; }
}
$again = LifelinePeer::resume($server, $peer);
echo json_encode(array_intersect_key($again->welcome(), ['resumed' => 1, 'why' => 1])), "\n";
var_dump($server->stats()['sessions']['count']);
?>
--EXPECT--
bool(true)
int(1)
array(1) {
  ["a"]=>
  int(1)
}
bool(false)
NULL
session ID has ended
session ID has ended
session ID has ended
session ID has ended
{"resumed":false,"why":"expired"}
int(1)
