--TEST--
limits.maxMessage, maxFrame, maxFragments close with their codes
--EXTENSIONS--
lifeline
--FILE--
<?php
require __DIR__ . '/../inc/ws.php';
$got = [];
$quiet = ['logLevel' => 'emergency'];
$callbacks = ['message' => function ($c, $data) use (&$got) { $got[] = strlen($data); }, 'error' => function () {}];
function sent(WsServer $server, callable $write): string
{
    $peer = Peer::open($server);
    $write($peer);
    $word = preg_replace('~^(close \d+).*~', '$1', $peer->next($server));
    pump($server, fn () => count($server) === 0, 'the end');
    return $word;
}
$server = serve($callbacks, ['limits' => ['maxMessage' => 10]] + $quiet);
echo 'frame of 11: ', sent($server, fn (Peer $p) => $p->text(str_repeat('x', 11))), "\n";
echo 'fragments of 11: ', sent($server, function (Peer $p) { $p->frame(0x01, 'xxxxxx'); $p->frame(0x80, 'xxxxx'); }), "\n";
echo 'of 10: ', sent($server, function (Peer $p) { $p->text(str_repeat('x', 10)); $p->close(); }), "\n";
$server = serve($callbacks, ['limits' => ['maxMessage' => 100, 'maxFrame' => 10]] + $quiet);
echo 'frame of 11: ', sent($server, fn (Peer $p) => $p->text(str_repeat('x', 11))), "\n";
echo 'frames of 10: ', sent($server, function (Peer $p) { $p->frame(0x01, str_repeat('x', 10)); $p->frame(0x80, str_repeat('x', 10)); $p->close(); }), "\n";
$server = serve($callbacks, ['limits' => ['maxFragments' => 2]] + $quiet);
echo 'two fragments: ', sent($server, function (Peer $p) { $p->frame(0x01, 'x'); $p->frame(0x80, 'x'); $p->close(); }), "\n";
echo 'three fragments: ', sent($server, function (Peer $p) { $p->frame(0x01, 'x'); $p->frame(0x00, 'x'); $p->frame(0x80, 'x'); }), "\n";
echo implode(' ', $got), "\n";
?>
--EXPECT--
frame of 11: close 1009
fragments of 11: close 1009
of 10: close 1000
frame of 11: close 1009
frames of 10: close 1000
two fragments: close 1000
three fragments: close 1008
10 20 2
