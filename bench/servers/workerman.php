<?php
// Workerman, one worker; the same paths as lifeline.php. PORT, AUTOLOAD.
declare(strict_types=1);

use Workerman\Connection\TcpConnection;
use Workerman\Protocols\Websocket;
use Workerman\Timer;
use Workerman\Worker;

require getenv('AUTOLOAD');

$port = (int) getenv('PORT');
$worker = new Worker("websocket://127.0.0.1:$port", ['socket' => ['backlog' => 4096]]);
$worker->count = 1;
Worker::$pidFile = sys_get_temp_dir() . "/bench-workerman-$port.pid";
Worker::$logFile = '/dev/null';
Worker::$stdoutFile = '/dev/null';
$subscribers = [];
$opened = $closed = 0;
$worker->onWorkerStart = static function (Worker $worker) use ($port): void {
    // The heartbeat of the manual, with a ping.
    Timer::add(25, static function () use ($worker): void {
        foreach ($worker->connections as $connection) {
            $connection->websocketType = "\x89";
            $connection->send('');
            $connection->websocketType = Websocket::BINARY_TYPE_BLOB;
        }
    });
    fwrite(STDERR, "listening ws://127.0.0.1:$port\n");
};
$worker->onWebSocketConnect = static function (TcpConnection $c, $request) use (&$subscribers, &$opened): void {
    ++$opened;
    $path = is_object($request) ? $request->path() : parse_url($_SERVER['REQUEST_URI'] ?? '/', PHP_URL_PATH);
    if ($path === '/subscribe') {
        $subscribers[$c->id] = $c;
    }
    $c->publishes = $path === '/publish';
};
$worker->onMessage = static function (TcpConnection $c, string $data) use (&$subscribers): void {
    $type = Websocket::BINARY_TYPE_ARRAYBUFFER;
    if ($c->publishes) {
        foreach ($subscribers as $subscriber) {
            $subscriber->websocketType = $type;
            $subscriber->send($data);
        }
        return;
    }
    $c->websocketType = $type;
    $c->send($data);
};
$worker->onClose = static function (TcpConnection $c) use (&$subscribers, &$closed): void {
    ++$closed;
    unset($subscribers[$c->id]);
};
$_SERVER['argv'] = $argv = [$argv[0], 'start'];
Worker::runAll();
