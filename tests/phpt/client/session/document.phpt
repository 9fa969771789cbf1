--TEST--
WsReplica: follows and edits a document, offline, too; conflicts by each policy; refusals
--FILE--
<?php
require __DIR__ . '/../../inc/client.php';
$mayWrite = true;
$server = serve(['subscribe' => fn () => true]);
$board = $server->document('board', ['write' => function ($c, $key, $value) use (&$mayWrite) { return $mayWrite; }]);
$board->set('title', 'x');
$make = function (string $name, array $options = []) use ($server, &$log): array {
    $client = new WsClient($server->address(), FAST);
    $replica = $client->document('board', $options);
    $replica->onChange(function ($key, $value, $version, $deleted) use ($name, &$log) { $log[] = "$name: $key = " . json_encode($value) . ($deleted ? ' (deleted)' : ''); });
    $replica->onConflict(function ($key, $mine, $theirs, $resolution, $reason) use ($name, &$log) { $log[] = "$name: conflict $key " . json_encode([$mine, $theirs, $resolution, $reason]); });
    $client->connect();
    until($client, fn () => $replica->get('title') !== null, "$name's state");
    return [$client, $replica];
};
$say = function () use (&$log): void { sort($log); echo implode("\n", $log), "\n"; $log = []; };
[$a, $one] = $make('one');
[$b, $two] = $make('two', ['conflict' => 'clientWins']);
[$c, $three] = $make('three', ['conflict' => fn ($key, $mine, $theirs) => "$mine+$theirs"]);
var_dump($one === $a->document('board'), $one->channel, $one->version(), $one->version('title'), $one->version('none'));
until($a, function () use (&$log) { return count($log) === 3; });
$say();
echo "- an edit\n";
$one->set('list', [1, ['a' => null]]);
echo json_encode($one->get()), "\n";
until($a, function () use (&$log, $a) { return count($log) === 2 && $a->unacknowledged() === 0; });
$say();
echo json_encode([$board->get('list'), $two->get('list'), $one->version('list') === $board->version('list')]), "\n";
echo "- conflicts of what was edited before the first connection\n";
$others = [];
foreach (['mine' => [], 'hers' => ['conflict' => 'clientWins'], 'its' => ['conflict' => fn ($key, $mine, $theirs) => "$mine+$theirs"]] as $value => $options) {
    $others[] = $client = new WsClient($server->address(), FAST);
    $replica = $client->document('board', $options);
    $conflicts = [];
    $replica->onConflict(function (...$conflict) use (&$conflicts) { $conflicts[] = $conflict; });
    $replica->set('title', "not $value");
    $replica->set('title', $value);
    $replica->set("new $value", true);
    echo json_encode($replica->get()), "\n";
    $client->connect();
    until($client, function () use (&$conflicts, $client, $replica, $board, $one) {
        return $conflicts !== [] && $client->unacknowledged() === 0 && $replica->get() == $board->get() && $one->get() == $board->get();
    });
    echo json_encode([$conflicts, $board->get('title'), $board->get("new $value")]), "\n";
}
until($a, fn () => $a->poll(0.05) === 0);
$log = [];
echo "- refused\n";
$mayWrite = false;
$one->delete('title');
var_dump($one->get('title'));
until($a, function () use (&$log) { return $log !== []; });
$say();
var_dump($one->get('title'));
echo "- not allowed\n";
foreach ([fn () => $a->document('x', ['conflict' => 7]), fn () => $a->document('x', ['conflicts' => 7]), fn () => $one->set('', 1), fn () => $one->set('a', NAN), fn () => new WsReplica()] as $try) {
    try { $try(); } catch (Throwable $e) { echo get_class($e), ': ', $e->getMessage(), "\n"; }
}
$a->close();
until($server, fn () => $a->state() === WsState::Closed);
try { $one->get(); } catch (WsException $e) { echo $e->getMessage(), "\n"; }
foreach ([$b, $c, ...$others] as $client) {
    $client->close();
}
?>
--EXPECT--
bool(true)
string(5) "board"
int(1)
int(1)
int(0)
one: title = "x"
three: title = "x"
two: title = "x"
- an edit
{"list":[1,{"a":null}],"title":"x"}
three: list = [1,{"a":null}]
two: list = [1,{"a":null}]
[[1,{"a":null}],[1,{"a":null}],true]
- conflicts of what was edited before the first connection
{"new mine":true,"title":"mine"}
[[["title","mine","x","server",""]],"x",true]
{"new hers":true,"title":"hers"}
[[["title","hers","x","client",""]],"hers",true]
{"new its":true,"title":"its"}
[[["title","its","hers","merged",""]],"its+hers",true]
- refused
NULL
one: conflict title [null,"its+hers","refused","not allowed"]
one: title = "its+hers"
string(8) "its+hers"
- not allowed
TypeError: WsClient::document(): option 'conflict' must be 'serverWins', 'clientWins' or a callable, int given
ValueError: WsClient::document(): unknown option 'conflicts', known is conflict
ValueError: WsReplica::set(): Argument #1 ($key) must be 1 to 255 bytes of UTF-8
ValueError: the value cannot be written as JSON (a resource, invalid UTF-8, INF, NAN, or too deep)
Error: Call to private WsReplica::__construct() from global scope
the WsClient is closed
