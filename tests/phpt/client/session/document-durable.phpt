--TEST--
WsReplica: edits made offline are on disk, and the next process sends them; what it is refused is told to onReject
--FILE--
<?php
require __DIR__ . '/../../inc/client.php';
require __DIR__ . '/../../inc/durable.php';
$code = <<<'PHP'
    [, $url, $folder] = $argv;
    $client = new WsClient($url, ['outbox' => ['path' => $folder]]);
    $board = $client->document('board');
    $board->set('mine', ['made' => 'offline']);
    $board->set('mine', ['made' => 'offline, twice']);
    $board->set('title', 'mine');
    echo json_encode($board->get()), "\n";
    sleep(100);
    PHP;
$folder = outbox_directory();
$server = serve(['subscribe' => fn () => true]);
$board = $server->document('board');
$board->set('title', "the server's");
[$process, $output] = other($code, [$server->address(), $folder]);
echo fgets($output);
proc_terminate($process, 9);
proc_close($process);
$client = new WsClient($server->address(), FAST + ['outbox' => ['path' => $folder]]);
$rejected = [];
$client->onReject(function ($sequence, $data, $code) use (&$rejected) { $edit = json_decode($data, true); $rejected[] = [$edit['k'], $edit['v'], $code]; });
$replica = $client->document('board');
$client->connect();
until($client, function () use (&$rejected, $client, $replica) { return $rejected !== [] && $client->unacknowledged() === 0 && $replica->get('mine') !== null; });
echo json_encode([$rejected, $board->get(), $replica->get()]), "\n";
$client->close();
until($server, fn () => $client->state() === WsState::Closed);
?>
--EXPECT--
{"mine":{"made":"offline, twice"},"title":"mine"}
[[["title","mine",409]],{"mine":{"made":"offline, twice"},"title":"the server's"},{"mine":{"made":"offline, twice"},"title":"the server's"}]
