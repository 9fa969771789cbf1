--TEST--
workers: one that blocks delays its own connections alone; after watchdog.lag it is replaced
--EXTENSIONS--
lifeline
--FILE--
<?php
require __DIR__ . '/../inc/workers.php';
$code = fn (string $options) => <<<CODE
\$server = site($options);
\$server->onOpen(fn (\$c) => \$c->resumed && \$c->send('again'));
\$server->onMessage(function (\$c, \$data) {
    if (\$data === 'block') {
        while (!is_file(__DIR__ . '/go')) {
            usleep(1000);
        }
    }
    \$c->send(\$data === 'pid' ? (string) getmypid() : \$data);
});
run_site(\$server);
CODE;
$site = new Site($code('["watchdog" => ["lag" => 600]]'));
$peers = array_map(fn () => $site->peer(), range(1, 4));
$of = [];
foreach ($peers as $peer) {
    $of[$site->ask($peer, 'pid')][] = $peer;
}
[[$blocked, $behind], [$one, $two]] = array_values($of);
$blocked->text('block');
$behind->text('waits');
foreach (range(1, 100) as $n) {
    foreach ([$one, $two] as $peer) {
        if ($site->ask($peer, "hello $n") !== "hello $n") {
            exit('wrong');
        }
    }
}
echo json_encode([$blocked->poll('frame'), $behind->poll('frame')]), "\n";
touch("$site->directory/go");
echo $blocked->next(), ', ', $behind->next(), "\n";

$site = new Site($code('["workers" => 1, "watchdog" => ["lag" => 0.3]]'));
$peer = $site->peer();
$pid = $site->ask($peer, 'pid');
$peer->text('block');
echo $peer->next(), ', ', $site->ask($peer, 'pid') === $pid ? 'the same' : 'another', "\n";
echo preg_replace(['~^.*lifeline ~', '~\d+\.\d~', '~process \d+~'], ['', 'N', 'process N'], $site->logged('~has not dispatched|watchdog~')), "\n";
?>
--EXPECT--
[null,null]
text block, text waits
text again, another
error: worker 1 (process N) has ended: signal 9: it was stuck (watchdog.lag). Its 1 connections go on; 1 messages of plain connections were in its hands and are lost, 0 of lifeline.v1 are handled again
