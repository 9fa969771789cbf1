--TEST--
workers: new code that does not get as far as run() changes nothing, and the log says why
--EXTENSIONS--
lifeline
--FILE--
<?php
require __DIR__ . '/../inc/workers.php';
$good = fn (string $version) => <<<CODE
\$server = site();
\$server->onMessage(fn (\$c, \$data) => \$c->send("$version \$data " . json_encode(\$c->resumed)));
run_site(\$server);
CODE;
$site = new Site($good('first'));
$peer = $site->peer();
echo $site->ask($peer, 'hello'), "\n";
$seen = 0;
foreach ([
    'a syntax error' => "\$server = site(;\n",
    'an exception' => "function start_up() { throw new LogicException('no configuration'); }\nstart_up();",
    'a fatal error' => 'break;',
    'exit' => 'exit(7);',
    'no run()' => '$server = site();',
    'an option' => "site(['workers' => 300]);",
    'no workers' => "run_site(site(['workers' => 0]));",
    'another server' => "run_site(site(['workers' => 0])); run_site(site());",
] as $name => $code) {
    $site->change($code);
    $before = strlen($site->log());
    $site->signal('USR1');
    $line = null;
    meanwhile(function () use ($site, $before, &$line) {
        $lines = preg_grep('~lifeline (error|warning|critical): .*reload~', explode("\n", substr($site->log(), $before)));
        $line = end($lines);
        return $line !== false;
    }, "what is said of $name: {$site->log()}");
    $line = preg_replace(['~^.*?lifeline ~', '~worker \d \(process \d+\)~', '~\d{4,}~', '~ in /\S+/~', '~\\\\n.*~'], ['', 'worker N', 'MANY', ' in ', ''], $line);
    echo "$name: $line\n";
    if ($site->ask($peer, 'hello') !== 'first hello false') {
        echo "and the old worker has gone\n";
    }
}
$site->reload($good('second'));
meanwhile(fn () => $site->ask($peer, 'hello') === 'second hello true', 'the good one');
echo "good\n";
?>
--EXPECT--
first hello false
a syntax error: error: reload failed, the old workers stay: worker N has not started: exit status 255: syntax error, unexpected token ";" in server.php:2
an exception: error: reload failed, the old workers stay: worker N has not started: exit status 255: Uncaught LogicException: no configuration in server.php:2
a fatal error: error: reload failed, the old workers stay: worker N has not started: exit status 255: 'break' not in the 'loop' or 'switch' context in server.php:2
exit: error: reload failed, the old workers stay: worker N has not started: exit status 7: the script has ended and has not started a WsServer with the option 'workers'
no run(): error: reload failed, the old workers stay: worker N has not started: exit status 0: the script has ended and has not started a WsServer with the option 'workers'
an option: error: reload failed, the old workers stay: worker N has not started: exit status 255: Uncaught ValueError: WsServer: option 'workers' must be between 0 and 256, 300 given in workers.php:20
no workers: error: reload failed, the old workers stay: worker N has not started: exit status 255: Uncaught WsException: a worker process serves the server with the option 'workers' alone: do not start others where getenv('LIFELINE_WORKER') is set in workers.php:9
another server: error: reload failed, the old workers stay: worker N has not started: exit status 255: Uncaught WsException: a worker process serves the server with the option 'workers' alone: do not start others where getenv('LIFELINE_WORKER') is set in workers.php:9
good
