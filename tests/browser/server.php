<?php
// What the browser tests talk to: argument 1 is where to listen, argument 2
// a directory to serve. It writes what it handles as lines of JSON; a line
// of JSON on stdin is a command: {"op":"send","session":"…","data":"…"}, {"op":"publish","channel":"…","data":"…"},
// {"op":"abort"}.
declare(strict_types=1);

require __DIR__ . '/lines.php';

$server = new WsServer($argv[1], ['origins' => 'any', 'resume' => ['ttl' => 30], 'static' => $argv[2] ?? null]);
$server->onAuth(function (WsRequest $r, ?string $token): array|false {
    tell('auth', ['token' => $token]);
    return $token === 'banned' ? false : ['user' => 'someone'];
});
$server->onOpen(function (WsConnection $c): void {
    tell('open', ['id' => $c->id, 'session' => $c->session?->id, 'resumed' => $c->resumed]);
});
$server->onSubscribe(fn (WsConnection $c, string $channel): bool => $channel !== 'secret');
$server->onMessage(function (WsConnection $c, string $data, bool $binary, WsMessage $m): void {
    tell('message', ['id' => $m->id, 'data' => $data]);
});
$server->onClose(function (WsConnection $c, int $code): void {
    tell('close', ['id' => $c->id, 'code' => $code]);
});
$server->onError(function (Throwable $e): void {
    tell('error', ['message' => $e->getMessage()]);
});
$server->start();
tell('ready', ['address' => $server->address()]);

serve($server, function (array $c) use ($server): void {
    match ($c['op']) {
        'send' => $server->session($c['session'])?->send($c['data']),
        'publish' => $server->publish($c['channel'], $c['data']),
        'close' => array_map(fn (WsConnection $x) => $x->close($c['code']), iterator_to_array($server->connections(), false)),
        'abort' => array_map(fn (WsConnection $x) => $x->abort(), iterator_to_array($server->connections(), false)),
    };
});
$server->stop(0.0);
