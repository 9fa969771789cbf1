<?php
// Pushes figures to every dashboard that is open, once a second, from timers of the server itself.
// A browser gets them with: new WebSocket('ws://127.0.0.1:8080/load').onmessage = e => console.log(e.data)
//   php examples/dashboards.php [ws://127.0.0.1:8080]
declare(strict_types=1);

pcntl_async_signals(true);

$server = new WsServer($argv[1] ?? 'ws://127.0.0.1:8080', [
    'origins' => 'any',
    // Dashboards behind a proxy that cuts after 60 s of silence.
    'heartbeat' => ['preset' => 'nginx'],
    // A dashboard that does not keep up misses old figures, never new ones.
    'send' => ['limit' => 64 * 1024, 'policy' => 'dropOldest'],
]);

// Each dashboard is a channel, named by the path; what it shows is read here.
$dashboards = [
    '/load' => fn (): array => ['load' => sys_getloadavg()],
    '/memory' => fn (): array => ['php' => memory_get_usage(), 'peak' => memory_get_peak_usage()],
    '/connections' => fn (): array => ['open' => count($server)],
];

$server->onHandshake(fn (WsRequest $r): bool|int => isset($dashboards[$r->path]) ? true : 404);
$server->onOpen(function (WsConnection $c) use ($dashboards): void {
    $c->subscribe($c->path);
    // What is known now; the rest comes with the timer.
    $c->send(json_encode($dashboards[$c->path]()));
});
$server->every(1.0, function () use ($server, $dashboards): void {
    foreach ($dashboards as $channel => $read) {
        if ($server->members($channel) !== []) {
            $server->publish($channel, json_encode($read()));
        }
    }
});
foreach ([SIGINT, SIGTERM] as $signal) {
    pcntl_signal($signal, fn () => $server->stop(1.0));
}
$server->start();
echo 'Dashboards ', implode(', ', array_keys($dashboards)), ' on ', $server->address(), PHP_EOL;
$server->run();
