<?php
// Sends each line that is typed, prints what comes, and says what the connection is doing. Stop the
// server and start it again: what was typed meanwhile is delivered.
//   php examples/client.php [ws://127.0.0.1:8080/echo]
declare(strict_types=1);

$client = new WsClient($argv[1] ?? 'ws://127.0.0.1:8080/echo');
$client->onMessage(function (WsClient $c, string $data): void {
    echo "< $data", PHP_EOL;
});
$client->onStateChange(function (WsTransition $t): void {
    $why = $t->reason === '' ? '' : " ({$t->reason})";
    $next = $t->delay === null ? '' : sprintf(', next attempt in %.2f s', $t->delay);
    echo "* {$t->from->name} -> {$t->to->name}$why$next", PHP_EOL;
});
$client->onError(function (Throwable $e): void {
    echo "! {$e->getMessage()}", PHP_EOL;
});
$client->connect();

// The keyboard and the connection in one stream_select; Lifeline\Loop\Select does the same.
$connection = $client->stream();
$reading = true;
while ($client->state() !== WsState::Closed) {
    $read = $reading ? [STDIN, $connection] : [$connection];
    $write = $except = null;
    stream_select($read, $write, $except, null);
    if (in_array(STDIN, $read, true)) {
        $line = fgets(STDIN);
        if ($line === false) {
            $reading = false;
            $client->flush(5);
            $client->close();
        } else {
            $client->send(rtrim($line, "\r\n"));
        }
    }
    $client->tick();
}
// What follows the last transition, such as the error that ended it; returns at once.
$client->run();
