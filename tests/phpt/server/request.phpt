--TEST--
WsRequest: target, query, headers, cookies, protocols, origin
--FILE--
<?php
require __DIR__ . '/../inc/ws.php';
$server = serve(['open' => function ($c, WsRequest $r) use (&$request) { $request = $r; }], ['protocols' => ['b'], 'origins' => 'any']);
$peer = Peer::open($server, '/a%20b?x=1&y[]=2&y[]=3&z=%41', ['Sec-WebSocket-Protocol: a, b', 'Origin: https://example.org', 'X-Two: one', 'x-two: two',
    'Cookie: a=1; b=%41b; a=9', 'Cookie: c=d=e']);
echo $request->method, ' ', $request->target, ' ', $request->path, ' ', $request->origin, "\n";
echo json_encode([$request->query, $request->cookies, $request->protocols]), "\n";
var_dump($request->headers['x-two'], $request->headers['host'], $request->header('X-TWO'), $request->header('none'));
var_dump($request->remoteAddress === [...$server->connections()][0]->remoteAddress, [...$server->connections()][0]->protocol);
var_dump([...$server->connections()][0]->handshake() == $request);
?>
--EXPECT--
GET /a%20b?x=1&y[]=2&y[]=3&z=%41 /a%20b https://example.org
[{"x":"1","y":["2","3"],"z":"A"},{"a":"1","b":"Ab","c":"d=e"},["a","b"]]
string(8) "one, two"
string(9) "localhost"
string(8) "one, two"
NULL
bool(true)
string(1) "b"
bool(true)
