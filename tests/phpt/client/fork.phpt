--TEST--
A client that was started before a fork belongs to the parent; one made after it works
--EXTENSIONS--
lifeline
pcntl
--FILE--
<?php
require __DIR__ . '/../inc/client.php';
$server = echo_server();
$client = new WsClient($server->address());
$unused = new WsClient($server->address());
$client->send('before');
echo $client->receive(10), "\n";
$pid = pcntl_fork();
if ($pid === 0) {
    foreach (['poll', 'state', 'stats', 'unacknowledged', 'stream', 'tick', 'run', 'flush', 'receive', 'close'] as $method) {
        if (!str_starts_with(thrown(fn () => $client->$method()), 'Error: this WsClient was started before the process forked')) {
            echo "$method: ", thrown(fn () => $client->$method()), "\n";
        }
    }
    echo thrown(fn () => $client->send('x')), "\n";
    $unused->send('child');
    $unused->connect();
    echo $unused->flush(10) ? "child sent\n" : "child did not send\n";
    unset($client, $server, $unused);
    exit(0);
}
until($client, function () use ($pid, &$status) { return pcntl_waitpid($pid, $status, WNOHANG) === $pid; }, 'the child');
echo pcntl_wexitstatus($status), "\n";
$client->send('after');
echo $client->receive(10), "\n";
$client->close();
$client->run();
--EXPECT--
before
Error: this WsClient was started before the process forked and belongs to the parent process; create a new one after the fork
child sent
0
after
