--TEST--
onHandshake: anything else refuses with 500 and an error
--FILE--
<?php
require __DIR__ . '/../inc/ws.php';
$decide = null;
$server = serve([
    'handshake' => function (WsRequest $r) use (&$decide) { if ($decide instanceof Throwable) { throw $decide; } return $decide; },
    'error' => function (Throwable $e, ?WsConnection $c) { echo get_class($e), ': ', $e->getMessage(), ' ', var_export($c, true), "\n"; },
]);
foreach ([null, 'yes', 1.5, 42, 600, new stdClass, ['stauts' => 403], ['status' => '403'], ['headers' => 'x'], ['headers' => ["a\r\nb" => 'x']],
    ['body' => 5], ['protocol' => 'z'], new DomainException('no database')] as $decide) {
    $peer = new Peer($server->address());
    echo strtok($peer->head($server), "\r"), "\n";
}
var_dump(count($server));
?>
--EXPECTF--
TypeError: onHandshake must return bool, int (an HTTP status) or array, null returned NULL
HTTP/1.1 500 Internal Server Error
TypeError: onHandshake must return bool, int (an HTTP status) or array, string returned NULL
HTTP/1.1 500 Internal Server Error
TypeError: onHandshake must return bool, int (an HTTP status) or array, float returned NULL
HTTP/1.1 500 Internal Server Error
ValueError: onHandshake returned the status 42; allowed are 101 (accept) and 200-599 (refuse) NULL
HTTP/1.1 500 Internal Server Error
ValueError: onHandshake returned the status 600; allowed are 101 (accept) and 200-599 (refuse) NULL
HTTP/1.1 500 Internal Server Error
TypeError: onHandshake must return bool, int (an HTTP status) or array, stdClass returned NULL
HTTP/1.1 500 Internal Server Error
ValueError: onHandshake returned the unknown key 'stauts'; known are status, headers, body, protocol, compression NULL
HTTP/1.1 500 Internal Server Error
TypeError: onHandshake must return 'status' as int, string returned NULL
HTTP/1.1 500 Internal Server Error
TypeError: onHandshake: 'headers'%s NULL
HTTP/1.1 500 Internal Server Error
%sError: onHandshake: 'headers'%s NULL
HTTP/1.1 500 Internal Server Error
TypeError: onHandshake must return 'body' as string, int returned NULL
HTTP/1.1 500 Internal Server Error
ValueError: onHandshake chose the subprotocol 'z', but the client offers none NULL
HTTP/1.1 500 Internal Server Error
DomainException: no database NULL
HTTP/1.1 500 Internal Server Error
int(0)
