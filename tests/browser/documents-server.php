<?php
// Shares a document, and keeps it in a file for the next process. Arguments: where to listen, the file. It writes lines
// of JSON; commands on stdin are {"op":"set","key":"…","value":…}, {"op":"delete","key":"…"} and {"op":"state"}.
declare(strict_types=1);

require __DIR__ . '/lines.php';

[, $listen, $file] = $argv;
// So little history that snapshots are needed, too.
$server = new WsServer($listen, ['origins' => 'any', 'resume' => ['ttl' => 60, 'count' => 20]]);
$server->onOpen(function (WsConnection $c): void {
    // The one that looks on.
    if ($c->session === null) {
        $c->subscribe('board');
        $c->send('[]');
    }
});
$server->onSubscribe(fn (): bool => true);
$server->onError(fn (Throwable $e) => tell('error', ['message' => $e->getMessage()]));
$server->start();
$board = $server->document('board');
foreach (json_decode((string) @file_get_contents($file), true) ?? [] as $key => $value) {
    $board->set((string) $key, $value);
}
$save = function () use ($board, $file): void {
    file_put_contents("$file.new", json_encode($board->get(), JSON_THROW_ON_ERROR | JSON_FORCE_OBJECT));
    rename("$file.new", $file);
};
$board->onChange($save);
tell('ready', ['address' => $server->address()]);
serve($server, function (array $c) use ($board, $save): void {
    match ($c['op']) {
        'set' => $board->set($c['key'], $c['value']),
        'delete' => $board->delete($c['key']),
        'state' => tell('state', ['state' => (object) $board->get(), 'version' => $board->version()]),
    };
    $save();
});
