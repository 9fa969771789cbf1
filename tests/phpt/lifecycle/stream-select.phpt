--TEST--
stream() inside an outer stream_select() loop: wakes for messages and timers, cannot be drained by reading
--FILE--
<?php
require __DIR__ . '/../inc/ws.php';
$server = serve(['message' => fn ($c, $data) => $c->send($data)]);
$stream = $server->stream();
var_dump(is_resource($stream));
$peer = Peer::open($server);
$wait = function (float $limit) use ($stream) { $read = [$stream]; $w = $e = null; return stream_select($read, $w, $e, (int) $limit, (int) (($limit - (int) $limit) * 1e6)); };
while ($wait(0)) { $server->tick(); }
var_dump($wait(0.05));
$peer->text('hello');
var_dump($wait(LIMIT));
@fread($stream, 100);
var_dump($wait(LIMIT));
while ($wait(0)) { $server->tick(); }
echo $peer->next(), "\n";
// A timer makes it readable too.
$server->after(0.05, function () { echo "timer\n"; });
$start = microtime(true);
while ($wait(LIMIT) && $server->poll() === 0) { }
var_dump(microtime(true) - $start < 5);
// So do 200 messages, however they are taken.
for ($i = 0; $i < 200; $i++) { $peer->text("n$i"); }
for ($i = 0; $i < 200; $i++) {
    while (($frame = $peer->poll('frame')) === null) { if ($wait(0.01)) { $server->tick(); } }
}
echo $frame[1], "\n";
fclose($stream);
$peer->text('closed stream');
echo $peer->next($server), "\n";
?>
--EXPECT--
bool(true)
int(0)
int(1)
int(1)
text hello
timer
bool(true)
n199
text closed stream
