--TEST--
A server that breaks RFC 6455 is told so: WsProtocolException, onClose, the code on the wire, then terminal
--EXTENSIONS--
lifeline
--FILE--
<?php
require __DIR__ . '/../inc/client.php';
$raw = new RawServer();
foreach ([
    'reserved opcode' => ["\x83\x00", 1002],
    'masked' => ["\x81\x81\0\0\0\0x", 1002],
    'not UTF-8' => ["\x81\x01\xFF", 1007],
    'too big' => ["\x82\x7F" . pack('J', 2_000_000), 1009],
] as $name => [$bytes, $code]) {
    $client = new WsClient($raw->url());
    $said = [];
    $client->onError(function (Throwable $e) use (&$said) { $said[] = get_class($e) . ' ' . $e->getCode(); })
        ->onClose(function ($c, int $code, string $reason, bool $clean) use (&$said) {
            $said[] = "onClose $code " . var_export($clean, true);
        });
    $client->connect();
    [$socket] = $raw->upgrade();
    fwrite($socket, $bytes);
    [$first, $data] = RawServer::frame($socket);
    fclose($socket);
    $client->run();
    echo "$name: wire ", dechex($first), ' ', unpack('n', $data)[1] === $code ? 'as expected' : unpack('n', $data)[1], "\n  ";
    echo implode(', ', $said), "\n";
}
echo "-- masks are unpredictable\n";
$client = new WsClient($raw->url());
$client->sendMany(array_fill(0, 20, 'xxxx'));
$client->connect();
[$socket] = $raw->upgrade();
$masks = [];
for ($i = 0; $i < 20; $i++) {
    $masks[] = substr(fread($socket, 10), 2, 4);
}
echo count(array_unique($masks)) >= 19 ? "all differ\n" : "repeated\n";
--EXPECT--
reserved opcode: wire 88 as expected
  WsProtocolException 1002, onClose 1002 false, WsConnectException 1002
masked: wire 88 as expected
  WsProtocolException 1002, onClose 1002 false, WsConnectException 1002
not UTF-8: wire 88 as expected
  WsProtocolException 1007, onClose 1007 false, WsConnectException 1007
too big: wire 88 as expected
  WsException 1009, onClose 1009 false, WsConnectException 1009
-- masks are unpredictable
all differ
