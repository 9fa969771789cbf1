--TEST--
logLevel: the logger is told nothing below it
--EXTENSIONS--
lifeline
--FILE--
<?php
require __DIR__ . '/../inc/ws.php';
foreach (['info', 'notice'] as $level) {
    $records = [];
    $server = serve([], ['logLevel' => $level, 'logger' => function (string $level, string $message) use (&$records) { $records[] = "$level: $message"; }]);
    $socket = stream_socket_client(str_replace('ws:', 'tcp:', $server->address()), $code, $message, LIMIT);
    fwrite($socket, "no request\r\n\r\n");
    // Counted after it was logged.
    pump($server, fn () => $server->stats()['connections']['failedHandshakes'] === 1, 'the failure');
    $server->poll(0);
    echo "$level: ", $records[0] ?? 'nothing', "\n";
}
?>
--EXPECT--
info: info: handshake failed: malformed HTTP head: invalid request line
notice: nothing
