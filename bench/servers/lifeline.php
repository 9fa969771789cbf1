<?php
// WsServer with one PHP thread, or with those that OPTIONS say. The path decides:
//   /subscribe   gets what is published
//   /publish     what it sends goes to all subscribers
//   /hash        gets its messages back after some 50 us of PHP
//   any other    gets its messages back
// LISTEN: ws://127.0.0.1:PORT, OPTIONS: JSON of the constructor's options (heartbeats are on by default).
declare(strict_types=1);

$options = json_decode(getenv('OPTIONS') ?: '{}', true, flags: JSON_THROW_ON_ERROR);
$options += ['origins' => 'any', 'backlog' => 4096, 'logLevel' => 'error'];
$server = new WsServer(getenv('LISTEN') ?: 'ws://127.0.0.1:0', $options);
$opened = $closed = 0;

$server->onOpen(static function (WsConnection $c) use (&$opened): void {
    ++$opened;
    if ($c->path === '/subscribe') {
        $c->subscribe('news');
    } elseif ($c->path === '/publish') {
        $c->data = 'publish';
    } elseif ($c->path === '/hash') {
        $c->data = 'hash';
    }
});
$server->onMessage(static function (WsConnection $c, string $data, bool $binary) use ($server): void {
    if ($c->data === 'publish') {
        $server->publish('news', $data, $binary);
        return;
    }
    if ($c->data === 'hash') {
        for ($hash = $data, $n = 0; $n < 100; ++$n) {
            $hash = hash('sha256', $hash);
        }
    }
    if (!$binary && $data[0] === '!') {
        // Orders of the bench: sleep, fill, queue
        $words = explode(' ', substr($data, 1));
        if ($words[0] === 'sleep') {
            usleep((int) ((float) $words[1] * 1e6));
            return;
        }
        if ($words[0] === 'fill') {
            // COUNT messages of SIZE bytes
            for ($n = (int) $words[1]; $n > 0; --$n) {
                $c->send(str_repeat('x', (int) $words[2]));
            }
            return;
        }
        if ($words[0] === 'queue') {
            // COUNT messages to one that reads nothing
            $accepted = 0;
            $peak = 0;
            $message = str_repeat('x', 64);
            for ($n = (int) $words[1]; $n > 0 && $c->isOpen(); --$n) {
                $accepted += (int) $c->send($message);
                $peak = max($peak, $c->bufferedBytes());
            }
            echo json_encode(['accepted' => $accepted, 'left' => $n, 'peak' => $peak]), "\n";
            return;
        }
    }
    $c->send($data, $binary);
});
$server->onClose(static function () use (&$closed): void {
    ++$closed;
});
pcntl_async_signals(true);
pcntl_signal(SIGTERM, static fn () => $server->stop(0));
$server->start();
echo 'listening ', $server->address(), "\n";
$server->run();
