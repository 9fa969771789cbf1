<?php
// Follows the document of documents-server.php. Arguments: its url, what becomes of conflicts: serverWins, clientWins or
// merge. It writes lines of JSON; commands on stdin are as the server's.
declare(strict_types=1);

require __DIR__ . '/lines.php';

[, $url, $policy] = $argv;
$client = new WsClient($url, ['reconnect' => ['first' => 0.0, 'floor' => 0.01, 'base' => 0.02, 'max' => 0.05]]);
$note = fn (string $what, string $key, array $more = []) => tell('log', ['what' => $what, 'key' => $key] + $more);
/** Of each key: asked again where the server's value has changed meanwhile, so the last one is an edit. */
$merged = [];
$board = $client->document('board', ['conflict' => $policy !== 'merge' ? $policy : function (string $key, mixed $mine, mixed $theirs) use (&$merged): array {
    return $merged[$key] = ['n' => 'php ' . bin2hex(random_bytes(6)), 'of' => [$mine['n'] ?? null, $theirs['n'] ?? null]];
}]);
$board->onConflict(function (string $key, mixed $mine, mixed $theirs, string $resolution, string $reason) use ($note, &$merged): void {
    $note($resolution === 'refused' ? 'refused' : 'conflict', $key, [
        'n' => $mine['n'] ?? 'delete', 'theirs' => $theirs['n'] ?? null, 'resolution' => $resolution, 'reason' => $reason,
    ]);
    if ($resolution === 'merged') {
        $note('edit', $key, ['n' => $merged[$key]['n']]);
    }
});
$board->onChange(fn (string $key, mixed $value) => $note('change', $key, ['n' => $value['n'] ?? null]));
$client->onError(fn (Throwable $e) => tell('error', ['message' => $e->getMessage()]));
$client->connect();
tell('ready');
serve($client, function (array $c) use ($client, $board, $note): void {
    match ($c['op']) {
        'set' => [$note('edit', $c['key'], ['n' => $c['value']['n']]), $board->set($c['key'], $c['value'])],
        'delete' => [$note('edit', $c['key'], ['n' => 'delete']), $board->delete($c['key'])],
        'state' => tell('state', ['state' => (object) $board->get(), 'version' => $board->version(), 'pending' => $client->unacknowledged(), 'connected' => $client->state() === WsState::Connected]),
    };
});
