--TEST--
workers: who can have them and who cannot; what looks like a worker and is none; programs that a worker starts are none
--EXTENSIONS--
lifeline
--FILE--
<?php
require __DIR__ . '/../inc/workers.php';
/** Runs PHP with these arguments; its output, without what differs. */
function run(array $arguments, string $input = '', array $environment = []): string
{
    $command = [PHP_BINARY, '-d', 'display_errors=1', '-d', 'log_errors=0', '-d', 'html_errors=0', '-d', 'extension=' . extension_path(), ...$arguments];
    $process = proc_open($command, [['pipe', 'r'], ['pipe', 'w'], ['redirect', 1]], $pipes, null, $environment + getenv());
    fwrite($pipes[0], $input);
    fclose($pipes[0]);
    $output = stream_get_contents($pipes[1]);
    proc_close($process);
    return trim(preg_replace(['~ in [^\n]+:\d+\n.*~s', '~^PHP Fatal error: +|^Fatal error: +~m'], ['', ''], $output));
}
$start = '$s = new WsServer("ws://127.0.0.1:0", ["workers" => 1]); ';
echo "stdin: ", run([], "<?php $start \$s->start();"), "\n";
echo "/dev/stdin: ", run(['/dev/stdin'], "<?php $start \$s->start();"), "\n";
echo "-r: ", run(['-r', "$start \$s->onOpen(fn (\$c) => \$c); \$s->after(0, fn () => [print('timer in ' . getenv('LIFELINE_WORKER')), \$s->stop(0)]); \$s->run();"]), "\n";
echo "plain: ", run(['-r', '$s = new WsServer("ws://127.0.0.1:0"); $s->start(); try { $s->reload(); } catch (WsException $e) { echo $e->getMessage(); }']), "\n";
echo "new: ", run(['-r', "$start try { \$s->reload(); } catch (WsException \$e) { echo \$e->getMessage(); }"]), "\n";
echo "second: ", run(['-r', "$start if (getenv('LIFELINE_WORKER')) { \$s->run(); exit; } \$s->start(); \$t = new WsServer('ws://127.0.0.1:0', ['workers' => 1]); try { \$t->start(); } finally { \$s->stop(0); }"]), "\n";
echo "two kinds: ", run(['-r', "if (!getenv('LIFELINE_WORKER')) { \$t = new WsServer('ws://127.0.0.1:0'); \$t->start(); } $start \$s->after(0, fn () => \$s->stop(0)); \$s->run(); echo 'fine ';"]), "\n";
echo "no socket: ", run(['-r', "$start \$s->start();"], '', ['LIFELINE_WORKER' => '1']), "\n";
echo "no socket, plain: ", run(['-r', '$s = new WsServer("ws://127.0.0.1:0"); $s->start();'], '', ['LIFELINE_WORKER' => '1']), "\n";
echo "no socket, client: ", run(['-r', '$c = new WsClient("ws://127.0.0.1:1"); $c->connect(); echo "fine";'], '', ['LIFELINE_WORKER' => '1']), "\n";
echo "empty: ", run(['-r', '$s = new WsServer("ws://127.0.0.1:0"); $s->start(); echo "fine";'], '', ['LIFELINE_WORKER' => '']), "\n";
if (function_exists('pcntl_fork')) {
    echo "forked: ", run(['-r', "if (pcntl_fork()) { pcntl_wait(\$status); exit; } $start \$s->start();"]), "\n";
} else {
    echo "forked: option 'workers': they cannot be started: this process was forked by another one, and its workers would run the script from the beginning\n";
}

// What a worker starts, with a socket as its standard input, is on its own; what it reads is not the gateway's.
$site = new Site(<<<'CODE'
$server = site(['workers' => 1]);
$server->onMessage(function ($c, $data) use ($server) {
    $c->send(match ($data) {
        'stdin' => json_encode([stream_get_contents(STDIN), getenv('LIFELINE_WORKER')]),
        'child' => (function () {
            $code = '$s = new WsServer("ws://127.0.0.1:0"); $s->start(); echo var_export(getenv("LIFELINE_WORKER"), true), " ", fgets(STDIN);';
            $process = proc_open([PHP_BINARY, '-d', 'extension=' . extension_path(), '-r', $code], [['socket'], ['pipe', 'w'], ['redirect', 1]], $pipes);
            fwrite($pipes[0], "input\n");
            return trim(stream_get_contents($pipes[1]));
        })(),
        'second' => (function () {
            try {
                site(['workers' => 1])->start();
            } catch (WsException $e) {
                return $e->getMessage();
            }
        })(),
        'directory' => getcwd(),
    });
});
chdir('/');
cli_set_process_title('a worker or its gateway');
run_site($server);
CODE);
$peer = $site->peer();
foreach (['stdin', 'child', 'second', 'directory'] as $what) {
    echo "$what: ", $site->ask($peer, $what), "\n";
}
$site->reload();
meanwhile(fn () => $site->ask($peer, 'directory') === '/', 'the reload, whose command line is the first one');
echo "reloaded\n";
?>
--EXPECT--
stdin: Uncaught WsException: option 'workers': they cannot be started: the script was read from the standard input, where workers cannot read it again; give PHP its file
/dev/stdin: Uncaught WsException: option 'workers': they cannot be started: the script was read from the standard input, where workers cannot read it again; give PHP its file
-r: timer in 1
plain: WsServer::reload() needs the option 'workers': this server has none
new: WsServer::reload() needs a started server: call start() or run() first
second: Uncaught WsException: a process can have one WsServer with the option 'workers', and this would be its second: its workers run the same script, and would not know which is theirs
two kinds: fine fine
no socket: Uncaught WsException: this process can have no WsServer: LIFELINE_WORKER is '1', which a server with the option 'workers' sets for the processes that it starts, but the standard input is no Unix socket: unset it
no socket, plain: Uncaught WsException: this process can have no WsServer: LIFELINE_WORKER is '1', which a server with the option 'workers' sets for the processes that it starts, but the standard input is no Unix socket: unset it
no socket, client: fine
empty: fine
forked: Uncaught WsException: option 'workers': they cannot be started: this process was forked by another one, and its workers would run the script from the beginning
stdin: ["","1"]
child: false input
second: a worker process serves one WsServer, and this would be its second
directory: /
reloaded
