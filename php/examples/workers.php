<?php
// A chat whose callbacks run in four processes, and whose code can be changed while people talk: edit this file, then
//   kill -USR1 PID       nobody is disconnected; say something and see
//   kill -9 WORKER       neither here
//   php examples/workers.php [ws://127.0.0.1:8080]
declare(strict_types=1);

$server = new WsServer($argv[1] ?? 'ws://127.0.0.1:8080', ['workers' => 4]);
$worker = getenv('LIFELINE_WORKER');

$server->onOpen(function (WsConnection $c, WsRequest $r): void {
    // Again in another worker: what this one keeps is filled again, and nobody is greeted twice.
    $c->data = $r->query['name'] ?? "guest $c->id";
    if (!$c->resumed) {
        $c->subscribe('room');
        $c->send("welcome, $c->data");
    }
});
$server->onMessage(function (WsConnection $c, string $data) use ($server, $worker): void {
    $server->publish('room', "$c->data (worker $worker): $data");
});
if ($worker === '1') {
    $server->every(60, fn () => $server->publish('room', 'It is ' . date('H:i')));
}
$server->start();
if ($worker === false) {
    echo 'Listening on ', $server->address(), ', process ', getmypid(), PHP_EOL;
}
$server->run();
