--TEST--
Messages of one connection come in order, and so do the answers
--FILE--
<?php
require __DIR__ . '/../inc/ws.php';
$server = serve(['message' => function (WsConnection $c, string $data) use (&$got) { $got[] = $data; $c->send($data); }]);
$peer = Peer::open($server);
for ($i = 0; $i < 3000; $i++) {
    $peer->text((string) $i);
}
$answers = [];
for ($i = 0; $i < 3000; $i++) {
    $answers[] = $peer->read($server)[1];
}
var_dump($got === array_map('strval', range(0, 2999)), $answers === $got);
?>
--EXPECT--
bool(true)
bool(true)
