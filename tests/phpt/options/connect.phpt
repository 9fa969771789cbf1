--TEST--
connect.headers, timeout and proxy (CONNECT with credentials, none with false)
--EXTENSIONS--
lifeline
--FILE--
<?php
require __DIR__ . '/../inc/client.php';
$raw = new RawServer();
$client = new WsClient($raw->url('/a?b=c'), ['connect' => ['headers' => ['X-One' => '1', 'X-Two' => ['2', '3']]], 'protocols' => ['chat', 'other']]);
$client->connect();
[$socket, $request] = $raw->upgrade(['Sec-WebSocket-Protocol: other']);
preg_match_all('~^(GET .*|X-.*|Sec-WebSocket-Protocol: .*)\r$~mi', $request, $lines);
echo implode("\n", $lines[1]), "\n";
until($client, fn () => $client->state() === WsState::Connected, 'the connection');
$client->close();

echo "-- timeout\n";
$raw = new RawServer(); // accepts in its backlog and says nothing
$client = new WsClient($raw->url(), ['connect' => ['timeout' => 0.1], 'reconnect' => ['maxAttempts' => 1] + FAST['reconnect'], 'logLevel' => 'emergency']);
$start = microtime(true);
echo preg_replace('~127\.0\.0\.1:\d+~', 'ADDRESS', thrown(fn () => $client->run())), "\n";
var_dump(microtime(true) - $start < 5);

echo "-- proxy\n";
$proxy = new RawServer();
$client = new WsClient('ws://example.invalid:81/x', ['connect' => ['proxy' => str_replace('ws://', 'http://me:secret@', rtrim($proxy->url(), '/'))]]);
$client->connect();
[$socket, $request] = $proxy->answer('200 Connection established');
preg_match_all('~^(CONNECT .*|Proxy-Authorization: .*)\r$~mi', $request, $lines);
echo implode("\n", $lines[1]), "\n";
stream_set_timeout($socket, (int) LIMIT);
echo trim(fgets($socket)), "\n"; // the request goes through the tunnel
$client->close();
$server = echo_server();
putenv('http_proxy=' . str_replace('ws://', 'http://', $proxy->url()));
putenv('all_proxy=' . str_replace('ws://', 'http://', $proxy->url()));
$client = new WsClient($server->address(), ['connect' => ['proxy' => false]]);
$client->send('direct');
echo $client->receive(10), "\n";
$client->close();
--EXPECT--
GET /a?b=c HTTP/1.1
Sec-WebSocket-Protocol: chat, other
X-One: 1
X-Two: 2
X-Two: 3
-- timeout
WsConnectException: connect.timeout (0.1 s) passed while waiting for the handshake answer of ws://ADDRESS; reconnect attempts exhausted
bool(true)
-- proxy
CONNECT example.invalid:81 HTTP/1.1
Proxy-Authorization: Basic bWU6c2VjcmV0
GET /x HTTP/1.1
direct
