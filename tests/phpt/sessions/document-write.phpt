--TEST--
WsDocument: the option write, a callback that fails, and options that are not allowed
--FILE--
<?php
require __DIR__ . '/../inc/lifeline.php';
$server = serve([
    'subscribe' => fn () => true,
    'error' => fn ($e, $c) => print(get_class($e) . ": {$e->getMessage()}\n"),
]);
$board = $server->document('board', ['write' => false, 'keys' => 2, 'bytes' => 300]);
$peer = LifelinePeer::open($server);
$peer->send('S board');
$peer->read();
$edit = function (int $q, string $key, mixed $value) use ($peer): string {
    $peer->send("D $q\n" . json_encode(['ch' => 'board', 'k' => $key, 'v' => $value, 'id' => "o$q"]));
    do {
        $frame = $peer->read();
    } while (!str_starts_with($frame, 'N ') && $frame !== "A $q" && !str_starts_with($frame, 'close'));
    return $frame;
};
echo $edit(1, 'a', 1), "\n";
$server->document('board', ['write' => true]);
echo $edit(2, 'a', 1), "\n", $edit(3, 'b', str_repeat('x', 300)), "\n";
$server->document('board', ['write' => function ($c, $key, $value, $version, $deleted) {
    echo json_encode([get_class($c), $key, $value, $version, $deleted]), "\n";
    return match ($value) { 'yes' => true, 'no' => false, 'never' => throw new WsReject('not today', 77), 'broken' => throw new DomainException('no database') };
}]);
echo $edit(4, 'a', 'yes'), "\n", $edit(5, 'a', 'no'), "\n", $edit(6, 'a', 'never'), "\n";
echo $edit(7, 'a', 'broken'), "\n";
echo json_encode($board->get()), ' ', $board->version('a'), "\n";
foreach ([['colour' => 1], ['keys' => 0], ['keys' => '7'], ['bytes' => 1 << 30], ['write' => 'nobody at all']] as $options) {
    try {
        $server->document('other', $options);
    } catch (Throwable $e) {
        echo get_class($e), ': ', $e->getMessage(), "\n";
    }
}
foreach ([fn () => $board->set('', 1), fn () => $board->set('c', INF), fn () => $board->set('c', str_repeat('x', 300)), fn () => $board->set('a', 1, -1), fn () => new WsDocument(), fn () => $server->document("a\nb")] as $try) {
    try {
        $try();
    } catch (Throwable $e) {
        echo get_class($e), ': ', $e->getMessage(), "\n";
    }
}
$server->stop(0);
pump($server, function () use ($board) { try { $board->get(); } catch (WsException $e) { echo $e->getMessage(), "\n"; return true; } return false; });
?>
--EXPECT--
N {"q":1,"code":403,"reason":"clients may not edit the document","permanent":true}
A 2
N {"q":3,"code":413,"reason":"the document would have 437 bytes, allowed are 300","permanent":true}
["WsConnection","a","yes",1,false]
A 4
["WsConnection","a","no",2,false]
N {"q":5,"code":403,"reason":"not allowed","permanent":true}
["WsConnection","a","never",2,false]
N {"q":6,"code":77,"reason":"not today","permanent":true}
["WsConnection","a","broken",2,false]
DomainException: no database
close 1011 internal error
{"a":"yes"} 2
ValueError: WsServer::document(): unknown option 'colour', known are bytes, keys, write
ValueError: WsServer::document(): option 'keys' must be 1 to 1000000, 0 given
TypeError: WsServer::document(): option 'keys' must be an int, string given
ValueError: WsServer::document(): option 'bytes' must be 1 to 1048576, 1073741824 given
TypeError: WsServer::document(): option 'write' must be a bool or a callable, string given
ValueError: WsDocument::set(): Argument #1 ($key) must be 1 to 255 bytes of UTF-8
ValueError: the value cannot be written as JSON (a resource, invalid UTF-8, INF, NAN, or too deep)
WsException: the document would have 441 bytes, allowed are 300
ValueError: $ifVersion must be 0 or more, -1 given
Error: Call to private WsDocument::__construct() from global scope
ValueError: WsServer::document(): Argument #1 ($channel) must be 1 to 255 bytes of UTF-8 without control characters
the server of document 'board' has ended
