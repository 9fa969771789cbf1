--TEST--
WsMessage carries the message and is Stringable
--FILE--
<?php
require __DIR__ . '/../inc/ws.php';
$server = serve(['message' => function ($c, $data, $binary, WsMessage $m) use (&$kept) {
    var_dump((string) $m === $data, $m->data === $data, $m->binary, $m->id, $m->channel, $m->sequence, $m instanceof Stringable);
    $m->ack();
    $kept = $m;
    try { $m->data = 'x'; } catch (Error $e) { echo $e->getMessage(), "\n"; }
}]);
$peer = Peer::open($server);
$peer->binary("a\0b");
pump($server, function () use (&$kept) { return $kept !== null; });
$kept->defer();
$kept->ack();
var_dump(bin2hex($kept->data));
$peer->text('next');
pump($server, function () use (&$kept) { return $kept->data === 'next'; });
?>
--EXPECT--
bool(true)
bool(true)
bool(true)
NULL
NULL
NULL
bool(true)
Cannot modify readonly property WsMessage::$data
string(6) "610062"
bool(true)
bool(true)
bool(false)
NULL
NULL
NULL
bool(true)
Cannot modify readonly property WsMessage::$data
