--TEST--
path, healthPath and origins of a server decide without PHP
--EXTENSIONS--
lifeline
--FILE--
<?php
require __DIR__ . '/../inc/ws.php';
/** The status line's code for a handshake. */
function status(WsServer $server, string $target, array $headers = []): string
{
    return explode(' ', (new Peer($server->address(), $target, $headers))->head($server))[1];
}
$server = serve([], ['path' => '/ws', 'healthPath' => '/up']);
echo status($server, '/ws'), ' ', status($server, '/ws?a=1'), ' ', status($server, '/'), ' ', status($server, '/ws/'), "\n";
$http = str_replace('ws://', 'http://', $server->address());
// The engine answers: this script is blocked in here and dispatches nothing.
var_dump(is_string(file_get_contents("$http/up")));
echo $http_response_header[0], "\n";
foreach (['same-host' => 'same-host', 'any' => 'any', 'list' => ['https://app.example', 'https://*.wild.example', 'http://port.example:*']] as $name => $origins) {
    $server = serve([], ['origins' => $origins]);
    echo $name, ':';
    foreach (['http://localhost', 'https://evil.example', 'https://app.example', 'https://a.b.wild.example', 'http://port.example:81'] as $origin) {
        echo ' ', status($server, '/', ["Origin: $origin"]);
    }
    echo ' ', status($server, '/'), "\n";
}
?>
--EXPECT--
101 101 404 404
bool(true)
HTTP/1.1 200 OK
same-host: 101 403 403 403 403 101
any: 101 101 101 101 101 101
list: 403 403 101 101 101 101
