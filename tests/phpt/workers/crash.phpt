--TEST--
workers: one that ends in a handler costs no connection; what was in its hands is counted
--EXTENSIONS--
lifeline
--FILE--
<?php
require __DIR__ . '/../inc/workers.php';
$site = new Site(<<<'CODE'
$server = site(['workers' => ['count' => 2, 'grace' => 5]]);
$server->onOpen(fn ($c) => $c->resumed && $c->send('again in ' . getenv('LIFELINE_WORKER')));
$server->onMessage(function ($c, $data) use ($server) {
    match ($data) {
        'exit' => exit(3),
        'fatal' => eval('break;'),
        'error' => trigger_error('enough', E_USER_ERROR),
        'kill' => exec('kill -9 ' . getmypid()),
        'lost' => $c->send(json_encode([$server->stats()['workers']['lost'], count($server)])),
        'who' => $c->send(getenv('LIFELINE_WORKER') . ' ' . getmypid()),
    };
});
$server->onClose(fn ($c, $code) => file_put_contents(__DIR__ . '/closed', "$c->id $code\n", FILE_APPEND));
run_site($server);
CODE);
$peer = $site->peer();
$other = $site->peer();
echo $site->ask($peer, 'lost'), "\n";
foreach (['exit', 'fatal', 'error', 'kill'] as $n => $end) {
    [$worker, $pid] = explode(' ', $site->ask($peer, 'who'));
    $peer->text($end);
    $again = $peer->next();
    echo "$end: ", str_starts_with($again, 'text again in ') ? 'again' : $again;
    // The other one is moved, too, if it was there; what it is asked is answered all the same.
    $other->text('who');
    while (str_starts_with($answer = $other->next(), 'text again')) {
    }
    echo preg_match('~^text \d \d+$~', $answer) && !str_ends_with($answer, " $pid") ? ', goes on' : ", $answer";
    echo ', ', preg_replace(['~^.* has ended: ~', '~\. Its.*?connections go on; ~'], ['', ': '], $site->logged("~process $pid\) has ended~")), "\n";
    meanwhile(fn () => json_decode($site->ask($peer, 'lost'))[0] === $n + 1, 'the count');
}
echo $site->ask($peer, 'lost'), "\n";
// Whoever was not asked to go is a new process with the same number.
meanwhile(fn () => count(glob("/proc/$site->pid/task/*/children")) > 0
    && count(array_filter(explode(' ', implode(' ', array_map(file_get_contents(...), glob("/proc/$site->pid/task/*/children")))))) === 2, 'two workers');
var_dump(is_file("$site->directory/closed"));
?>
--EXPECT--
[0,2]
exit: again, goes on, exit status 3: 1 messages of plain connections were in its hands and are lost, 0 of lifeline.v1 are handled again
fatal: again, goes on, exit status 255: 1 messages of plain connections were in its hands and are lost, 0 of lifeline.v1 are handled again
error: again, goes on, exit status 255: 1 messages of plain connections were in its hands and are lost, 0 of lifeline.v1 are handled again
kill: again, goes on, signal 9: 1 messages of plain connections were in its hands and are lost, 0 of lifeline.v1 are handled again
[4,2]
bool(false)
