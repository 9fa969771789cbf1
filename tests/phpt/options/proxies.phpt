--TEST--
trustedProxies lets X-Forwarded-For name the client, proxyProtocol reads it before the request
--EXTENSIONS--
lifeline
--FILE--
<?php
require __DIR__ . '/../inc/ws.php';
/** remoteAddress as the server tells it. */
function remote(WsServer $server, array $headers): string
{
    $peer = Peer::open($server, '/', $headers);
    return preg_replace('~^127\.0\.0\.1:\d+$~', 'the peer', [...$server->connections()][count($server) - 1]->remoteAddress);
}
$forwarded = ['X-Forwarded-For: 198.51.100.7, 203.0.113.9'];
echo remote(serve(), $forwarded), "\n";
echo remote(serve([], ['trustedProxies' => ['10.0.0.0/8']]), $forwarded), "\n";
echo remote(serve([], ['trustedProxies' => ['127.0.0.1']]), $forwarded), "\n";
echo remote(serve([], ['trustedProxies' => ['127.0.0.0/8', '203.0.113.0/24']]), $forwarded), "\n";
echo "-- PROXY protocol\n";
$request = "GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    . "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
$server = serve([], ['proxyProtocol' => true]);
foreach (["PROXY TCP4 192.0.2.1 192.0.2.2 5000 80\r\n", "PROXY TCP6 2001:db8::1 2001:db8::2 5000 80\r\n",
    "\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c" . inet_pton('192.0.2.3') . inet_pton('192.0.2.2') . pack('nn', 5001, 80)] as $number => $head) {
    $socket = stream_socket_client(str_replace('ws:', 'tcp:', $server->address()), $code, $message, LIMIT);
    fwrite($socket, $head . $request);
    pump($server, fn () => count($server) === $number + 1, 'a connection');
    echo [...$server->connections()][$number]->remoteAddress, "\n";
    $sockets[] = $socket;
}
$socket = stream_socket_client(str_replace('ws:', 'tcp:', $server->address()), $code, $message, LIMIT);
stream_set_timeout($socket, (int) LIMIT);
fwrite($socket, $request); // without the header nobody is believed
echo str_contains((string) stream_get_contents($socket), ' 101 ') ? 'accepted' : 'refused', "\n";
?>
--EXPECT--
the peer
the peer
203.0.113.9
198.51.100.7
-- PROXY protocol
192.0.2.1:5000
[2001:db8::1]:5000
192.0.2.3:5001
refused
