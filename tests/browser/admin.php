<?php
// A server with an admin listener, and clients of its own that keep it busy. Told and tells lines of JSON: `block` blocks PHP,
// `leave` ends half of the clients.
declare(strict_types=1);
require __DIR__ . '/lines.php';

$server = new WsServer('ws://127.0.0.1:0', ['admin' => '127.0.0.1:0', 'heartbeat' => ['interval' => 0.5], 'watchdog' => ['lag' => 600]]);
$server->onAuth(fn (WsRequest $r, ?string $token): array => ['user' => (string) $token]);
$server->onOpen(fn (WsConnection $c) => $c->subscribe('news'));
$server->onMessage(function (WsConnection $c, string $data): void {
    if (str_starts_with($data, 'block ')) {
        usleep((int) (1e6 * (float) substr($data, 6)));
    }
    $c->send($data);
});
$server->start();
$clients = [];
for ($number = 0; $number < (int) $argv[1]; $number++) {
    $clients[] = $client = new WsClient($server->address() . "/a/path/of/client-$number?token=a-secret", ['protocols' => $number % 2 ? ['lifeline.v1'] : []]);
    $client->onToken(fn (): string => "<b>user-$number</b>");
    $client->onMessage(function (): void {});
    $client->connect();
}
$server->every(0.05, function () use (&$clients): void {
    foreach ($clients as $client) {
        $client->send(str_repeat('x', random_int(10, 2000)));
    }
});
tell('ready', ['address' => $server->address(), 'admin' => $server->stats()['admin']]);
serve($server, function (array $line) use (&$clients): void {
    match ($line['op']) {
        'block' => $clients[0]->send("block $line[seconds]"),
        'leave' => array_map(fn (WsClient $c) => $c->close(), array_splice($clients, intdiv(count($clients), 2))),
    };
});
