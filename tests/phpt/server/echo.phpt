--TEST--
Text and binary messages of all lengths come and go, fragmented ones whole
--FILE--
<?php
require __DIR__ . '/../inc/ws.php';
$server = serve(['message' => fn (WsConnection $c, string $data, bool $binary) => $c->send($data, $binary)]);
$peer = Peer::open($server);
$peer->text('grüße');
echo $peer->next($server), "\n";
$peer->binary("\xff\0\x80");
echo $peer->next($server), "\n";
$peer->text('');
echo '[', $peer->next($server), "]\n";
foreach ([125, 126, 65535, 65536, 1000000] as $length) {
    $data = random_bytes($length);
    $peer->binary($data);
    [$first, $got] = $peer->read($server);
    var_dump($first === 0x82 && $got === $data);
}
$peer->frame(0x01, 'a');
$peer->frame(0x89, 'between');
$peer->frame(0x00, 'b');
$peer->frame(0x80, 'c');
echo $peer->next($server), "\n", $peer->next($server), "\n";
?>
--EXPECT--
text grüße
binary ff0080
[text ]
bool(true)
bool(true)
bool(true)
bool(true)
bool(true)
pong between
text abc
