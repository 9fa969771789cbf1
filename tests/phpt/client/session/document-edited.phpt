--TEST--
WsReplica: an edit of a key behind its conflict stays: nothing that is merged from the earlier one replaces it
--FILE--
<?php
require __DIR__ . '/../../inc/client.php';
$server = serve(['subscribe' => fn () => true]);
$board = $server->document('board');
$board->set('a', 'x');
$board->set('b', 'x');
$client = new WsClient($server->address(), FAST);
$asked = $told = [];
$replica = $client->document('board', ['conflict' => function ($key, $mine, $theirs) use (&$asked, &$replica) {
    $asked[] = [$key, $mine, $theirs];
    // Of both the conflict is known by now: of the one that is asked about, and of the one that is told next.
    $replica->set('a', 'mine again');
    $replica->set('b', 'mine again');
    return "$mine+$theirs";
}]);
$replica->onConflict(function (...$conflict) use (&$told) { $told[] = $conflict; });
$replica->set('a', 'mine');
$replica->set('b', 'mine');
$client->connect();
until($client, function () use (&$told, $client) { return count($told) === 2 && $client->unacknowledged() === 0; });
until($client, fn () => $replica->get() == $board->get());
echo json_encode([$asked, $told, $board->get()]), "\n";
$client->close();
?>
--EXPECT--
[[["a","mine","x"]],[["a","mine","x","edited",""],["b","mine","x","edited",""]],{"a":"mine again","b":"mine again"}]
