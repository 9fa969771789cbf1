<?php
// Swoole in callback mode, one process; the same paths as lifeline.php. PORT.
declare(strict_types=1);

$server = new Swoole\WebSocket\Server('127.0.0.1', (int) getenv('PORT'), SWOOLE_BASE);
$server->set([
    'worker_num' => 1, 'enable_coroutine' => false, 'backlog' => 4096, 'open_tcp_nodelay' => true, 'log_level' => SWOOLE_LOG_ERROR,
    'max_conn' => 19900, 'websocket_compression' => false, 'heartbeat_check_interval' => 25, 'heartbeat_idle_time' => 600,
]);
$paths = $subscribers = [];
$opened = $closed = 0;
$server->on('open', static function ($server, $request) use (&$paths, &$subscribers, &$opened): void {
    ++$opened;
    $path = $request->server['request_uri'];
    if ($path === '/subscribe') {
        $subscribers[$request->fd] = true;
    } elseif ($path === '/publish') {
        $paths[$request->fd] = true;
    }
});
$server->on('message', static function ($server, $frame) use (&$paths, &$subscribers): void {
    if (isset($paths[$frame->fd])) {
        foreach ($subscribers as $fd => $_) {
            $server->push($fd, $frame->data, $frame->opcode);
        }
        return;
    }
    $server->push($frame->fd, $frame->data, $frame->opcode);
});
$server->on('close', static function ($server, $fd) use (&$paths, &$subscribers, &$closed): void {
    ++$closed;
    unset($paths[$fd], $subscribers[$fd]);
});
$server->on('start', static function ($server): void {
    echo "listening ws://127.0.0.1:{$server->port}\n";
});
$server->start();
