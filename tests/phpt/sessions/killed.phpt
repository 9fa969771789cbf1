--TEST--
A server that is killed with 100 suspended handlers has acknowledged nothing of them; the next one gets all again
--SKIPIF--
<?php if (!extension_loaded('posix')) die('skip posix is not loaded'); ?>
--FILE--
<?php
require __DIR__ . '/../inc/lifeline.php';
$code = <<<'PHP'
require '%INC%/lifeline.php';
$seen = 0;
$server = new WsServer($argv[1] ?? 'ws://127.0.0.1:%PORT%');
$server->onMessage(function ($c, $data, $binary, WsMessage $m) use (&$held) {
    $m->defer();
    $held[] = $m;
    if (%SUSPEND%) {
        file_put_contents('%FILE%', '.', FILE_APPEND);
    } else {
        $m->ack();
    }
});
$server->start();
file_put_contents('%FILE%', $server->address() . "\n", FILE_APPEND);
$server->run();
PHP;
function start(string $code, array $with): array
{
    $file = tempnam(sys_get_temp_dir(), 'lifeline');
    $with['%FILE%'] = $file;
    $with['%INC%'] = __DIR__ . '/../inc';
    file_put_contents("$file.php", '<?php ' . strtr($code, $with));
    $command = [PHP_BINARY, '-n', '-d', 'extension=' . (getenv('LIFELINE_EXTENSION') ?: extension_path()), "$file.php"];
    $process = proc_open($command, [1 => ['file', '/dev/null', 'w'], 2 => ['file', '/dev/null', 'w']], $pipes);
    meanwhile(fn () => str_contains(file_get_contents($file), "\n"), 'the server');
    return [$process, $file, strtok(file_get_contents($file), "\n")];
}
[$process, $file, $address] = start($code, ['%PORT%' => '0', '%SUSPEND%' => 'true']);
/** A peer per handler: the handlers of one connection come one after another. */
$connect = function (string $address, int $n, int $next): Peer {
    $peer = new Peer($address, '/', ['Sec-WebSocket-Protocol: lifeline.v1']);
    $peer->head();
    $peer->text('H ' . json_encode(['v' => 1, 'outbox' => ['id' => "box$n", 'gen' => 1, 'first' => 1, 'next' => $next]]));
    [, $welcome] = $peer->read();
    $peer->next();
    $peer->welcome = json_decode(substr($welcome, 2), true);
    return $peer;
};
$peers = [];
for ($n = 0; $n < 100; $n++) {
    $peers[$n] = $connect($address, $n, 1);
    $peers[$n]->text("P 1\nitem $n");
}
meanwhile(fn () => substr_count(file_get_contents($file), '.') >= 100 + substr_count($address, '.'), '100 suspended handlers');
posix_kill(proc_get_status($process)['pid'], SIGKILL);
$acknowledged = 0;
foreach ($peers as $peer) {
    while (($frame = $peer->next()) !== 'end') {
        $acknowledged += str_starts_with($frame, 'text A');
    }
}
proc_close($process);
echo "acknowledged before: $acknowledged\n";
[$process, $second, $address] = start($code, ['%PORT%' => '0', '%SUSPEND%' => 'false']);
for ($n = 0; $n < 100; $n++) {
    $peer = $connect($address, $n, 2);
    if ($peer->welcome['q'] !== 0) {
        echo "a mark from nowhere\n";
    }
    $peer->text("P 1\nitem $n");
    $acknowledged += $peer->next() === 'text A 1';
}
echo "acknowledged now: $acknowledged\n";
proc_terminate($process, 9);
proc_close($process);
array_map('unlink', [$file, "$file.php", $second, "$second.php"]);
?>
--EXPECT--
acknowledged before: 0
acknowledged now: 100
