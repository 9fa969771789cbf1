--TEST--
admin: metrics, health and readiness are told while PHP is blocked
--EXTENSIONS--
lifeline
--FILE--
<?php
require __DIR__ . '/../inc/ws.php';
$server = serve([], ['admin' => '127.0.0.1:0']);
$peer = Peer::open($server);
$peer->text('hello');
pump($server, fn () => $server->stats()['messages']['in'] === 1, 'the message');
$admin = $server->stats()['admin'];
echo trim(file_get_contents("$admin/healthz")), ' ', trim(file_get_contents("$admin/readyz")), "\n";
$metrics = file_get_contents("$admin/metrics");
foreach (['lifeline_ready', 'lifeline_connections_open', 'lifeline_messages_in'] as $name) {
    echo preg_match("~^$name .*$~m", $metrics, $match) ? $match[0] : "no $name", "\n";
}
echo str_contains(file_get_contents("$admin/"), '<h1>lifeline</h1>') ? 'a page' : 'no page', "\n";
var_dump(@file_get_contents("$admin/none"));
echo $http_response_header[0], "\n";
?>
--EXPECT--
ok ready
lifeline_ready 1
lifeline_connections_open 1
lifeline_messages_in 1
a page
bool(false)
HTTP/1.1 404 Not Found
