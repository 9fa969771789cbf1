--TEST--
workers: SIGTERM and SIGINT stop the server, the second one at once, SIGUSR1 reloads; where nobody else has handlers, and while it runs
--EXTENSIONS--
lifeline
pcntl
--FILE--
<?php
require __DIR__ . '/../inc/workers.php';
$code = fn (string $before = '', string $serve = 'run_site($server);') => <<<CODE
\$server = site();
\$server->onMessage(fn (\$c, \$data) => \$c->send(\$data === 'pid' ? (string) getmypid() : \$data));
\$said = fn (string \$what) => file_put_contents(__DIR__ . '/said', (getenv('LIFELINE_WORKER') === false ? 'gateway ' : 'worker ') . "\$what\n", FILE_APPEND);
$before
$serve
\$said('goes on');
CODE;
$said = function (Site $site): string {
    $lines = is_file("$site->directory/said") ? array_map(trim(...), file("$site->directory/said")) : [];
    sort($lines);
    return implode(', ', $lines);
};
foreach (['TERM', 'INT'] as $name) {
    $site = new Site($code());
    $plain = $site->peer();
    // lifeline.v1: told when to leave, within a part of what stop() was given.
    $peer = $site->peer('/', ['Sec-WebSocket-Protocol: lifeline.v1']);
    $peer->text('H {"v":1,"outbox":{"id":"box","gen":1,"first":1,"next":1}}');
    while ($peer->next() !== 'text R 0') {
    }
    $window = function () use ($peer): float {
        while (!str_starts_with($frame = $peer->next(), 'text X ')) {
            if (!str_starts_with($frame, 'text ')) {
                throw new RuntimeException("$frame in the place of GOAWAY");
            }
        }
        return json_decode(substr($frame, 7))->window;
    };
    $site->signal($name);
    echo $plain->next(), ', ', $window() > 1 ? 'in a while' : 'at once', "\n";
    $site->signal($name);
    echo $window() > 1 ? 'in a while' : 'at once', ', ', $peer->next(), ', ', $plain->next(), ', ', $site->status(), ': ', $said($site), "\n";
}
// A worker does not mind them: its gateway decides.
$site = new Site($code());
$peer = $site->peer();
$pid = $site->ask($peer, 'pid');
exec("kill -INT $pid; kill -TERM $pid; kill -USR1 $pid");
echo $site->ask($peer, 'pid') === $pid ? 'the same' : 'another', "\n";
// Handlers of its own; set by name before the server runs.
$site = new Site($code(<<<'CODE'
pcntl_async_signals(true);
foreach ([SIGTERM, SIGINT, SIGUSR1] as $signal) {
    pcntl_signal($signal, fn () => [$said("signal $signal"), $server->stop(0)]);
}
CODE));
$site->peer();
$site->signal('USR1');
echo 'own handlers: ', $site->status(), ' ', $said($site), "\n";
// Afterwards they do what they did before.
$site = new Site($code(serve: 'run_site($server); if (getenv("LIFELINE_WORKER") === false) { exec("kill -TERM " . getmypid()); }'));
$site->peer();
$site->signal('TERM');
$site->signal('TERM');
echo 'afterwards: ', $site->status() > 0 || !str_contains($said($site), 'gateway') ? 'ended' : 'alive', "\n";
// In a loop that sleeps on the stream.
$site = new Site($code(serve: <<<'CODE'
$server->start();
if (getenv('LIFELINE_WORKER') === false) {
    file_put_contents(__DIR__ . '/address', $server->address());
}
$stream = $server->stream();
while (true) {
    $read = [$stream];
    $none = [];
    if (@stream_select($read, $none, $none, 60)) {
        $server->tick();
    }
    try {
        $server->address();
        if ($server->stats() === []) {
            break;
        }
    } catch (WsException) {
        break;
    }
}
CODE));
$peer = $site->peer();
$pid = $site->ask($peer, 'pid');
$site->signal('USR1');
meanwhile(fn () => $site->ask($peer, 'pid') !== $pid, 'the reload');
$site->signal('TERM');
echo $peer->next(), "\n";
$site->signal('TERM');
echo 'stream: ', $site->status(), ' ', $said($site), "\n";
?>
--EXPECT--
close 1001 server shutdown, in a while
at once, close 4000 server shutdown, end, 0: gateway goes on, worker goes on, worker goes on
close 1001 server shutdown, in a while
at once, close 4000 server shutdown, end, 0: gateway goes on, worker goes on, worker goes on
the same
own handlers: 0 gateway goes on, gateway signal 10, worker goes on, worker goes on
afterwards: ended
close 1001 server shutdown
stream: 0 gateway goes on, worker goes on, worker goes on, worker goes on, worker goes on
