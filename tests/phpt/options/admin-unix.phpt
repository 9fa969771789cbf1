--TEST--
admin: on a Unix socket, until the server has ended; its successor takes the same address
--EXTENSIONS--
lifeline
--FILE--
<?php
require __DIR__ . '/../inc/ws.php';
$path = sys_get_temp_dir() . '/lifeline-admin-' . getmypid() . '.sock';
function ask(string $path, string $target): string
{
    $stream = @stream_socket_client("unix://$path", $code, $message, LIMIT);
    if (!$stream) {
        return $message;
    }
    fwrite($stream, "GET $target HTTP/1.0\r\n\r\n");
    return strtok(stream_get_contents($stream), "\r");
}
$server = new WsServer('ws://127.0.0.1:0', ['admin' => "unix://$path"]);
foreach ([1, 2] as $time) {
    $server->start();
    var_dump($server->stats()['admin'] === "unix://$path", (fileperms($path) & 0022) === 0);
    $peer = Peer::open($server);
    echo ask($path, '/readyz'), ', ', ask($path, '/status.json'), "\n";
    $server->stop(LIMIT);
    // While it waits for the peer, which has not answered its close frame.
    meanwhile(fn () => str_contains(ask($path, '/readyz'), '503'), 'that it is not ready');
    echo ask($path, '/healthz'), "\n";
    $peer->close(1001);
    $server->run();
    echo file_exists($path) ? 'there' : 'gone', ', ', ask($path, '/healthz'), "\n";
}
?>
--EXPECT--
bool(true)
bool(true)
HTTP/1.1 200 OK, HTTP/1.1 200 OK
HTTP/1.1 200 OK
gone, No such file or directory
bool(true)
bool(true)
HTTP/1.1 200 OK, HTTP/1.1 200 OK
HTTP/1.1 200 OK
gone, No such file or directory
