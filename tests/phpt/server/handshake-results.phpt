--TEST--
onHandshake: true, false, a status, or an array decide
--FILE--
<?php
require __DIR__ . '/../inc/ws.php';
$decide = null;
$server = serve(['handshake' => function (WsRequest $r) use (&$decide) { return $decide; }], ['protocols' => ['x', 'y']]);
foreach ([
    true, false, 401, 101, ['status' => 302, 'headers' => ['Location' => 'https://example.org/']],
    ['status' => 429, 'body' => 'slow down', 'headers' => ['Retry-After' => '5']],
    ['headers' => ['X-Hello' => 'there']], ['protocol' => 'y'], [],
] as $decide) {
    $peer = new Peer($server->address(), '/', ['Sec-WebSocket-Protocol: x, y']);
    $head = $peer->head($server);
    $wanted = preg_grep('~^(HTTP|Location|Retry-After|X-Hello|Sec-WebSocket-Protocol)~i', explode("\r\n", $head));
    echo json_encode($decide, JSON_UNESCAPED_SLASHES), ' => ', implode(' | ', $wanted);
    if (!str_contains($head, ' 101 ')) {
        echo ' | ', $peer->body($server);
    }
    echo "\n";
}
?>
--EXPECTF--
true => HTTP/1.1 101 Switching Protocols%ASec-WebSocket-Protocol: x
false => HTTP/1.1 403 Forbidden%A
401 => HTTP/1.1 401 Unauthorized%A
101 => HTTP/1.1 101 Switching Protocols%ASec-WebSocket-Protocol: x
{"status":302,"headers":{"Location":"https://example.org/"}} => HTTP/1.1 302 Found%ALocation: https://example.org/%A
{"status":429,"body":"slow down","headers":{"Retry-After":"5"}} => HTTP/1.1 429 Too Many Requests%ARetry-After: 5%Aslow down
{"headers":{"X-Hello":"there"}} => HTTP/1.1 101 Switching Protocols%AX-Hello: there%A
{"protocol":"y"} => HTTP/1.1 101 Switching Protocols%ASec-WebSocket-Protocol: y
[] => HTTP/1.1 101 Switching Protocols%ASec-WebSocket-Protocol: x
