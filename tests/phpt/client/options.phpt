--TEST--
Options of WsClient: errors name the key, what was given and what is allowed
--EXTENSIONS--
lifeline
--FILE--
<?php
require __DIR__ . '/../inc/client.php';
enum Suit { case Hearts; }
$errors = [
    [''], ['example.org'], ['http://a'], ['ws://a/#f'], ['ws://a:0'], ['ws://me:secret@a:x'], [[]], [['k' => 'ws://a']], [[1]], [1], [null],
];
foreach ($errors as [$url]) {
    echo thrown(fn () => new WsClient($url)), "\n";
}
$reference = ['interval' => 'soon'];
$self = [];
$self['heartbeat'] = &$self;
foreach ([
    ['heartbeat' => ['intervall' => 25]],
    ['heartbeat' => 5],
    ['heartbeat' => ['interval' => '25']],
    ['heartbeat' => ['interval' => new DateTime()]],
    ['heartbeat' => ['interval' => Suit::Hearts]],
    ['heartbeat' => ['interval' => STDIN]],
    ['heartbeat' => ['interval' => -1]],
    ['heartbeat' => ['interval' => NAN]],
    ['heartbeat' => &$reference],
    ['heartbeat.interval' => 5],
    ['reconnect' => ['base' => 5, 'max' => 1]],
    ['origins' => 'any'],
    ['idle' => []],
    ['outbox' => ['file' => '/tmp']],
    ['connect' => ['headers' => ['Host' => 'x']]],
    ['tls' => ['ca' => '/no/such/file.pem']],
    ['logLevel' => 'warn'],
    ['logger' => 'no_such_function'],
    ['logger' => new ArrayObject()],
    [5],
    $self,
] as $options) {
    echo thrown(fn () => new WsClient('ws://a', $options)), "\n";
}
echo thrown(fn () => new WsClient('ws://a', 5)), "\n";
echo "-- fine\n";
$logger = new class { public function log($level, $message, array $context = []): void {} };
foreach ([$logger, fn () => 0, 'var_dump', [$logger, 'log'], null] as $ok) {
    echo thrown(fn () => new WsClient(['ws://a', 'wss://b'], ['logger' => $ok, 'heartbeat' => ['accept' => [2 => '3'], 'preset' => 'mobile'], 'tls' => null])), "\n";
}
--EXPECTF--
ValueError: WsClient: URL '' is empty
ValueError: WsClient: URL 'example.org' has no scheme; write it like 'ws://127.0.0.1:8080/'
ValueError: WsClient: URL 'http://a' has the scheme 'http', allowed are ws, wss and unix; write 'ws://'
ValueError: WsClient: URL 'ws://a/#f' must not have a fragment '#' (RFC 6455 section 3)
ValueError: WsClient: URL 'ws://a:0' must name a port from 1 to 65535
ValueError: WsClient: URL 'ws://…@a:x' has the port 'x', which is not a number
ValueError: WsClient: $url must hold at least one URL, an empty array given
ValueError: WsClient: $url must be a URL or a list of URLs, an array with keys given
TypeError: WsClient: $url must hold strings only, int given
TypeError: WsClient: $url must be of type string or a list of strings, int given
TypeError: WsClient: $url must be of type string or a list of strings, null given
ValueError: WsClient: unknown option 'heartbeat.intervall' (25 given); did you mean 'heartbeat.interval'? Allowed options of 'heartbeat': interval, timeout, missedLimit, mode, adaptive, message, reply, accept, preset
TypeError: WsClient: option 'heartbeat' must be of type array (interval, timeout, missedLimit, mode, adaptive, message, reply, accept, preset), int given
TypeError: WsClient: option 'heartbeat.interval' must be of type int|float (seconds), string given
TypeError: WsClient: option 'heartbeat.interval' must be of type int|float (seconds), DateTime given
TypeError: WsClient: option 'heartbeat.interval' must be of type int|float (seconds), Suit given
TypeError: WsClient: option 'heartbeat.interval' must be of type int|float (seconds), resource given
ValueError: WsClient: option 'heartbeat.interval' must be between 0.001 and 31536000 seconds, -1 given
ValueError: WsClient: option 'heartbeat.interval' must be between 0.001 and 31536000 seconds, NaN given
TypeError: WsClient: option 'heartbeat.interval' must be of type int|float (seconds), string given
ValueError: WsClient: option 'heartbeat.interval' must be nested: ['heartbeat' => ['interval' => …]]
ValueError: WsClient: option 'reconnect.base' breaks base ≤ max and floor ≤ max: base 5, floor 0.05, max 1
ValueError: WsClient: 'origins' is an option of WsServer, not of WsClient
ValueError: WsClient: 'idle' is an option of WsServer, not of WsClient
ValueError: WsClient: unknown option 'outbox.file' (string given)%SAllowed options of 'outbox': limit, bytes, overflow, blockTimeout, ttl, path, durability
ValueError: WsClient: option 'connect.headers': 'Host' is set by the handshake itself
ValueError: WsClient: option 'tls.ca' must name a readable file: cannot read '/no/such/file.pem': No such file or directory (os error 2)
ValueError: WsClient: option 'logLevel' must be one of 'debug', 'info', 'notice', 'warning', 'error', 'critical', 'alert', 'emergency', 'warn' given%S
TypeError: WsClient: option 'logger' must be a PSR-3 logger (an object with a public method log), a callable or null, string given
TypeError: WsClient: option 'logger' must be a PSR-3 logger (an object with a public method log), a callable or null, ArrayObject given
ValueError: WsClient: the options must be an array of names to values, a list was given
ValueError: WsClient: unknown option 'heartbeat.heartbeat' (array given)%A
TypeError: WsClient::__construct(): Argument #2 ($options) must be of type array, int given
-- fine
nothing thrown
nothing thrown
nothing thrown
nothing thrown
nothing thrown
