--TEST--
A script ends promptly though its links cannot be written to: nobody reads and the buffers are full
--EXTENSIONS--
lifeline
--FILE--
<?php
require __DIR__ . '/../inc/client.php';
// The peers live here: their sockets stay open until after the other process has ended.
$raw = new RawServer();
$url = var_export($raw->url(), true);
function timed(string $code, callable $meanwhile): void
{
    $file = tempnam(sys_get_temp_dir(), 'lifeline');
    file_put_contents($file, '<?php require ' . var_export(__DIR__ . '/../inc/ws.php', true) . ";\n$code");
    $process = proc_open([PHP_BINARY, '-n', '-d', 'extension=' . extension_path(), $file], [1 => ['pipe', 'w'], 2 => ['redirect', 1]], $pipes);
    $held = $meanwhile($pipes[1]);
    while (($line = fgets($pipes[1])) !== "full\n") {
        if ($line === false) { break; }
        echo $line;
    }
    $start = microtime(true);
    echo stream_get_contents($pipes[1]);
    $status = proc_close($process);
    $took = microtime(true) - $start;
    echo "exit $status, ", $took < 4 ? 'promptly' : sprintf('after %.1f s', $took), "\n";
    unlink($file);
}
echo 'client: ';
timed("\$c = new WsClient($url, ['outbox' => ['bytes' => 50000000], 'logLevel' => 'emergency']);" . <<<'PHP'
$c->connect();
for ($i = 0; $i < 40; $i++) { $c->send(str_repeat('x', 1000000)); }
$end = microtime(true) + LIMIT;
do { $before = $c->unacknowledged(); $c->poll(0.2); } while (($c->state() !== WsState::Connected || $c->unacknowledged() < $before) && microtime(true) < $end);
echo $c->unacknowledged() > 0 ? "full\n" : "not full\n";
PHP, fn () => $raw->upgrade());
echo 'server: ';
timed(<<<'PHP'
$s = new WsServer('ws://127.0.0.1:0', ['send' => ['limit' => 50000000], 'logLevel' => 'emergency']);
$s->start();
echo $s->address(), "\n";
pump($s, fn () => count($s) === 1, 'the peer');
[$c] = $s->connections();
for ($i = 0; $i < 40; $i++) { $c->send(str_repeat('x', 1000000)); }
$end = microtime(true) + LIMIT;
do { $before = $c->bufferedBytes(); $s->poll(0.2); } while ($c->bufferedBytes() < $before && microtime(true) < $end);
echo $c->bufferedBytes() > 0 ? "full\n" : "not full\n";
PHP, fn ($out) => new Peer(trim(fgets($out))));
--EXPECT--
client: exit 0, promptly
server: exit 0, promptly
