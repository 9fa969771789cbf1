--TEST--
WsDocument: the application's own changes, edits of clients, plain receivers, onChange
--FILE--
<?php
require __DIR__ . '/../inc/lifeline.php';
$server = serve(['subscribe' => fn () => true, 'open' => function ($c) use (&$conn) { $conn = $c; }]);
$board = $server->document('board');
var_dump($board === $server->document('board'), $board->channel, $board->get(), $board->version());
var_dump($board->set('title', 'x', 0), $board->set('list', ['a' => [1, 2.5, null]]), $board->set('title', 'y', 1));
try {
    $board->set('title', 'z', 1);
} catch (WsConflictException $e) {
    echo $e->getMessage(), "\n";
}
var_dump($board->delete('nothing'), $board->version(), $board->version('title'), $board->version('nothing'));
echo json_encode([$board->get('title'), $board->get('nothing'), $board->get()]), "\n";

$frame = fn (string $frame) => preg_replace(['/ [\w-]{8} (\d+) [\w-]{11} d=1/', '/"e":"[\w-]{8}"/', '/ [\w-]{8} (\d+ [0-9a-f]{8})/', '/"reason":"[\w-]{8} /'],
    [' E $1 MID d=1', '"e":"E"', ' E $1', '"reason":"E '], $frame);
$peer = LifelinePeer::open($server, 'one');
$ours = $conn;
$plain = Peer::open($server);
$conn->subscribe('board');
$peer->send('S board');
$peer->read();
$peer->send('V board - 0 00000000');
echo $frame($peer->read()), "\n";
$seen = [];
$board->onChange(function ($key, $value, $version, $by, $deleted) use (&$seen) { $seen[] = [$key, $value, $version, $by?->id, $deleted]; });
$peer->send("D 1\n" . '{"ch":"board","k":"done","v":true,"id":"o1","if":0}');
$peer->send("D 2\n" . '{"ch":"board","k":"title","v":"mine","id":"o2","if":0}');
$peer->send("D 3\n" . '{"ch":"board","k":"list","id":"o3"}');
$frames = [];
while (!in_array('A 3', $frames, true) || count($frames) < 4) {
    $got = $frame($peer->read());
    if (!in_array($got, ['A 1', 'A 2'], true)) {
        $frames[] = $got;
    }
}
sort($frames);
echo implode("\n", $frames), "\n";
pump($server, function () use (&$seen) { return count($seen) === 2; });
var_dump($seen === [['done', true, 5, $ours->id, false], ['list', null, 6, $ours->id, true]]);
echo $frame($plain->next($server)), "\n", $frame($plain->next($server)), "\n";
$board->set('done', false);
echo $frame($plain->next($server)), "\n", $frame($peer->read()), "\n";
pump($server, fn () => true);
var_dump(count($seen));
$server->stop(0);
pump($server, fn () => count($server) === 0);
?>
--EXPECT--
bool(true)
string(5) "board"
array(0) {
}
int(0)
int(1)
int(2)
int(3)
document 'board': 'title' has version 3, not 1 (0: none)
int(4)
int(4)
int(3)
int(0)
["y",null,{"list":{"a":[1,2.5,null]},"title":"y"}]
V board E 4 a75649bb | {"list":[2,{"a":[1,2.5,null]}],"title":[3,"y"]}
A 3
C board E 1 MID d=1 | {"e":"E","n":5,"k":"done","v":true,"id":"o1","h":"664dbd9d"}
C board E 2 MID d=1 | {"e":"E","n":6,"k":"list","id":"o3","h":"6606e0aa"}
N {"q":2,"code":409,"reason":"E 5","permanent":true}
bool(true)
text {"e":"E","n":5,"k":"done","v":true,"id":"o1","h":"664dbd9d"}
text {"e":"E","n":6,"k":"list","id":"o3","h":"6606e0aa"}
text {"e":"E","n":7,"k":"done","v":false,"h":"6406dd84"}
C board E 3 MID d=1 | {"e":"E","n":7,"k":"done","v":false,"h":"6406dd84"}
int(2)
