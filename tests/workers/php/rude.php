<?php
// A server with two workers, the first of which is none while there is the file `when`: it says `bytes` (base64) on the
// socket to the gateway, itself or (`by`: child) through a child, and then dies (`then`: end) or waits for the gateway to
// end it (wait).

declare(strict_types=1);

require __DIR__ . '/../../chaos/php/common.php';
require __DIR__ . '/socket.php';

$config = config();
$number = getenv('LIFELINE_WORKER');
if ($number === '1' && file_exists($config['when'])) {
    say('rude', ['pid' => getmypid()]);
    $bytes = base64_decode($config['bytes']);
    $socket = gateway_socket();
    if ($config['by'] === 'child') {
        // It holds the socket for as long as the worker lives.
        $code = '$parent = fn () => (int) explode(" ", file_get_contents("/proc/self/stat"))[3]; $worker = $parent();'
            . ' fwrite(fopen("php://fd/0", "r+"), base64_decode($argv[1])); while ($parent() === $worker) usleep(50000);';
        $child = proc_open([PHP_BINARY, '-n', '-r', $code, base64_encode($bytes)], [$socket, ['file', '/dev/null', 'w']], $pipes);
    } else {
        fwrite($socket, $bytes);
    }
    if ($config['then'] === 'wait') {
        sleep(600);
    }
    // Without another word: the extension would say why the script has ended.
    exec('kill -9 ' . getmypid());
}
$logger = static fn (string $level, string $message, array $context) => say('log', ['level' => $level, 'message' => $message]);
$server = new WsServer('ws://127.0.0.1:0', ['logger' => $logger] + $config['options']);
$server->onMessage(static fn (WsConnection $c, string $data) => $c->send($data));
$server->start();
say('listening', ['address' => $server->address(), 'admin' => $server->stats()['admin'] ?? null, 'worker' => $number === false ? null : (int) $number, 'pid' => getmypid()]);
$server->run();
