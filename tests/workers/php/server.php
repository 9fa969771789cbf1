<?php
// An echo server with workers that takes orders: a text message that starts with the character 1.
//   config: options; work (microseconds a message takes); mortal (number of a worker that dies of its first message);
//   broken (while this file is there, a worker fails before it runs)
// The same lines are said by the gateway and by each worker: `worker` is its number, null in the gateway.

declare(strict_types=1);

require __DIR__ . '/../../chaos/php/common.php';
require __DIR__ . '/socket.php';

$config = config();
$number = getenv('LIFELINE_WORKER') === false ? null : (int) getenv('LIFELINE_WORKER');
$me = ['worker' => $number, 'pid' => getmypid()];
if ($number !== null && isset($config['broken']) && file_exists($config['broken'])) {
    throw new RuntimeException('no database today');
}
$options = $config['options'] ?? [];
$options['logger'] = static fn (string $level, string $message, array $context) => say('log', ['level' => $level, 'message' => $message] + $me);
$server = new WsServer('ws://127.0.0.1:0', $options);
$work = (int) ($config['work'] ?? 0);
$mortal = $number !== null && $number === ($config['mortal'] ?? null);
$eaten = '';

$server->onOpen(static function (WsConnection $c): void {
    $c->data = 0;
});
$server->onMessage(static function (WsConnection $c, string $data) use ($me, $work, $mortal, &$eaten): void {
    $c->data++;
    if ($mortal) {
        exit(1);
    }
    if (!str_starts_with($data, "\x01")) {
        if ($work > 0) {
            usleep($work);
        }
        $c->send($data);
        return;
    }
    $words = explode(' ', substr($data, 1), 2);
    switch ($words[0]) {
        case 'who':
            $c->send(json_encode($me + ['resumed' => $c->resumed, 'handled' => $c->data]));
            break;
        case 'block':
            // until there is such a file
            say('blocked', $me);
            while (!file_exists($words[1])) {
                usleep(5000);
                clearstatcache();
            }
            say('unblocked', $me);
            break;
        case 'spin':
            say('spins', $me);
            while (true);
        case 'eat':
            $eaten .= str_repeat('x', (int) $words[1]);
            $c->send('eaten');
            break;
        case 'exit':
            exit(0);
        case 'fatal':
            // Fatal, and no exception: the same class again.
            eval('class Twice {} class Twice {}');
            break;
        case 'rude':
            // What no worker says, on the socket to the gateway.
            fwrite(gateway_socket(), base64_decode($words[1]));
            break;
        default:
            say('unknown', ['order' => $data] + $me);
    }
});
$server->onError(static function (Throwable $e) use ($me): void {
    say('error', ['class' => $e::class, 'message' => $e->getMessage()] + $me);
});
$server->start();
say('listening', ['address' => $server->address(), 'admin' => $server->stats()['admin'] ?? null] + $me);
$server->run();
say('stopped', $me);
