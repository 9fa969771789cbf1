--TEST--
workers: each has a part of the connections, its own callbacks and timers; the process that has them runs none
--EXTENSIONS--
lifeline
--FILE--
<?php
require __DIR__ . '/../inc/workers.php';
$site = new Site(<<<'CODE'
$server = site();
$me = getenv('LIFELINE_WORKER');
$said = fn (string $what) => file_put_contents(__DIR__ . '/said', var_export(getenv('LIFELINE_WORKER'), true) . " $what\n", FILE_APPEND);
$server->onOpen(fn ($c, WsRequest $r) => $c->data = $r->path);
$server->onMessage(fn ($c, $data, $binary) => $c->send("$me $c->id $c->data $data " . json_encode($c->resumed)));
$server->onClose(fn ($c, $code) => $said("close $code"));
$server->onError(fn ($e) => $said($e->getMessage()));
$server->after(0, fn () => $said('timer before'));
$server->start();
$server->every(0.01, function () use ($said, &$once) { $once ??= $said('timer after') || true; });
run_site($server);
$said('end');
CODE);
$peers = array_map(fn ($n) => $site->peer("/$n"), range(1, 4));
$answers = array_map(fn ($peer) => $site->ask($peer, 'hello'), $peers);
echo implode("\n", array_map(fn ($answer) => preg_replace('~^\d \d ~', '', $answer), $answers)), "\n";
$workers = array_count_values(array_map(fn ($answer) => $answer[0], $answers));
ksort($workers);
echo json_encode($workers), ' ', count(array_unique(array_map(fn ($answer) => $answer[2], $answers))), " ids\n";
// Order is kept, whatever the peer does not wait for.
foreach (range(1, 500) as $n) {
    $peers[0]->text((string) $n);
}
$got = array_map(fn () => explode(' ', $peers[0]->next())[4], range(1, 500));
var_dump($got === array_map(strval(...), range(1, 500)));
$peers[1]->close(1001);
echo $peers[1]->next(), "\n";
$site->signal('TERM');
foreach ([0, 2, 3] as $n) {
    echo $peers[$n]->next(), "\n";
}
echo 'status ', $site->status(), "\n";
$said = file("$site->directory/said");
sort($said);
echo implode($said);
?>
--EXPECT--
/1 hello false
/2 hello false
/3 hello false
/4 hello false
{"1":2,"2":2} 4 ids
bool(true)
close 1001
close 1001 server shutdown
close 1001 server shutdown
close 1001 server shutdown
status 0
'1' close 1001
'1' close 1001
'1' end
'1' timer after
'1' timer before
'2' close 1001
'2' close 1001
'2' end
'2' timer after
'2' timer before
false end
