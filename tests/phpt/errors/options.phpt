--TEST--
Options of WsServer: errors name the key, what was given and what is allowed
--EXTENSIONS--
lifeline
--FILE--
<?php
require __DIR__ . '/../inc/client.php';
foreach (['', '8080', '127.0.0.1:8080', 'ws://127.0.0.1', 'ws://127.0.0.1:99999', 'ws://::1:80', 'ws://a:80/chat', 'websocket://0.0.0.0:80',
    'wss://a:443', 'unix://a', [], ['ws://a:1', 'ws://a:1'], 5] as $listen) {
    echo thrown(fn () => new WsServer($listen)), "\n";
}
foreach ([
    ['limits' => ['maxMesage' => 5]],
    ['limits' => ['maxMessage' => 5.0]],
    ['limits' => ['maxMessage' => 0]],
    ['limits' => ['maxMessage' => 10, 'maxFrame' => 20]],
    ['maxConnections' => 5],
    ['reconnect' => ['base' => 1]],
    ['workers' => -1],
    ['workers' => '4'],
    ['workers' => [4]],
    ['workers' => ['by' => 'user']],
    ['workers' => ['count' => 2, 'by' => 'cookie:id']],
    ['workers' => ['count' => 2, 'maxMemory' => 1024]],
    ['workers' => ['count' => 2, 'maxRequest' => 10]],
    ['watchdog' => ['action' => 'replace']],
    ['compression' => 'yes'],
    ['compression' => ['level' => 10]],
    ['compression' => ['windowBits' => 8]],
    ['compression' => ['contextTakeover' => 1]],
    ['compression' => ['window' => 9]],
    ['compression' => [6]],
    ['send' => ['policy' => 'drop']],
    ['origins' => '*'],
    ['protocols' => ['a', 'a']],
    ['protocols' => ['a b']],
    ['path' => 'ws'],
    ['static' => '/no/such/directory'],
    ['static' => __FILE__],
    ['static' => '/'],
    ['static' => ''],
    ['static' => 1],
    ['static' => []],
    ['trustedProxies' => ['10.0.0.1/8']],
    ['trustedProxies' => '10.0.0.0/8'],
    ['admin' => '9090'],
    ['ioThreads' => 65],
    ['backlog' => true],
    ['proxyProtocol' => 1],
    ['heartbeat' => ['adaptive' => [60, 30, 5]]],
    ['heartbeat' => ['preset' => 'ngnix']],
    ['heartbeat' => ['accept' => ['ping']]],
    ['tls' => ['cert' => '/no/such.pem']],
    ['tls' => ['cert' => __FILE__]],
    ['tls' => 'cert.pem'],
    ['logger' => 5],
] as $options) {
    echo thrown(fn () => new WsServer('ws://127.0.0.1:0', $options)), "\n";
}
echo thrown(fn () => new WsServer('ws://127.0.0.1:0', ['heartbeat' => ['interval' => 25, 'timeout' => 10], 'path' => null, 'tls' => null])), "\n";
--EXPECTF--
ValueError: WsServer: listen address '' is empty
ValueError: WsServer: listen address '8080' has no scheme; write it like 'ws://127.0.0.1:8080'
ValueError: WsServer: listen address '127.0.0.1:8080' has no scheme; write it like 'ws://127.0.0.1:8080'
ValueError: WsServer: listen address 'ws://127.0.0.1' has no port (0 takes any free one)
ValueError: WsServer: listen address 'ws://127.0.0.1:99999' has the port 99999, which is not in 0 to 65535
ValueError: WsServer: listen address 'ws://::1:80' has an IPv6 address without brackets: write [::1]
ValueError: WsServer: listen address 'ws://a:80/chat' must end after the port; a path goes into the option 'path'
ValueError: WsServer: listen address 'websocket://0.0.0.0:80' has the scheme 'websocket', allowed are ws, wss, unix and systemd; write 'ws://'
ValueError: WsServer: a wss:// address needs a certificate: set the option 'tls.cert' (and 'tls.key')
ValueError: WsServer: listen address 'unix://a' must name an absolute path: unix:///run/app.sock
ValueError: WsServer: $listen must hold at least one URL, an empty array given
ValueError: WsServer: $listen 'ws://a:1' is there twice
TypeError: WsServer: $listen must be of type string or a list of strings, int given
ValueError: WsServer: unknown option 'limits.maxMesage' (5 given); did you mean 'limits.maxMessage'? Allowed options of 'limits': memory, maxMessage, maxFrame, maxFragments, inbound, maxConnections, perIp, maxChannels, maxSubscriptions, handshakeTimeout, authTimeout, maxHeaderBytes, maxSessions, messageRate, byteRate, rateAction
TypeError: WsServer: option 'limits.maxMessage' must be of type int, float given
ValueError: WsServer: option 'limits.maxMessage' must be between 1 and 1125899906842624, 0 given
ValueError: WsServer: option 'limits.maxFrame' must not exceed 'limits.maxMessage' (10), 20 given
ValueError: WsServer: unknown option 'maxConnections' (5 given); did you mean 'limits.maxConnections'? Allowed options: heartbeat, idle, limits, send, compression, ack, redelivery, resume, dedupe, store, origins, protocols, path, healthPath, static, trustedProxies, proxyProtocol, tls, watchdog, admin, logger, logLevel, ioThreads, reusePort, backlog, workers
ValueError: WsServer: 'reconnect' is an option of WsClient, not of WsServer
ValueError: WsServer: option 'workers' must be between 0 and 256, -1 given
TypeError: WsServer: option 'workers' must be of type int or array (count, by, maxRequests, maxMemory, grace), string given
ValueError: WsServer: option 'workers' must be an int or an array of names to values (count, by, maxRequests, maxMemory, grace), a list was given
ValueError: WsServer: option 'workers' needs 'count', how many there are to be (0 to 256)
ValueError: WsServer: option 'workers.by' must be 'connection', 'user', 'header:NAME' or 'query:NAME', 'cookie:id' given
ValueError: WsServer: option 'workers.maxMemory' must be between 16777216 and 1125899906842624, 1024 given
ValueError: WsServer: unknown option 'workers.maxRequest' (10 given); did you mean 'workers.maxRequests'? Allowed options of 'workers': count, by, maxRequests, maxMemory, grace
ValueError: WsServer: option 'watchdog.action' can be 'replace' only with 'workers': there is no worker to replace; allowed without are 'log', 'unready', 'drain'
TypeError: WsServer: option 'compression' must be of type bool or array (level, contextTakeover, windowBits, threshold), string given
ValueError: WsServer: option 'compression.level' must be between 1 and 9, 10 given
ValueError: WsServer: option 'compression.windowBits' must be between 9 and 15, 8 given
TypeError: WsServer: option 'compression.contextTakeover' must be of type bool, int given
ValueError: WsServer: unknown option 'compression.window' (9 given)%sAllowed options of 'compression': level, contextTakeover, windowBits, threshold
ValueError: WsServer: option 'compression' must be an array of names to values (level, contextTakeover, windowBits, threshold), a list was given
ValueError: WsServer: option 'send.policy' must be one of 'close', 'dropOldest', 'dropNewest', 'drop' given
ValueError: WsServer: option 'origins' must be 'same-host', 'any' or a list of origins (['https://example.org']), '*' given
ValueError: WsServer: option 'protocols' names 'a' twice
ValueError: WsServer: option 'protocols' must hold tokens (RFC 6455 section 4.1: visible ASCII without separators), 'a b' given
ValueError: WsServer: option 'path' must begin with '/' and hold visible ASCII without '?' and '#', 'ws' given
ValueError: WsServer: option 'static' must name a directory: cannot read '/no/such/directory': No such file or directory (os error 2)
ValueError: WsServer: option 'static' must name a directory: cannot read '%soptions.php': Not a directory (os error 20)
ValueError: WsServer: option 'static' must name a directory: '/' is the root of the file system, which would all be public
ValueError: WsServer: option 'static' must name a directory: it is empty or contains NUL
TypeError: WsServer: option 'static' must be of type string (directory), bool (true: /lifeline.js alone) or null, int given
TypeError: WsServer: option 'static' must be of type string (directory), bool (true: /lifeline.js alone) or null, array given
ValueError: WsServer: option 'trustedProxies' has bits set behind the prefix in '10.0.0.1/8': did you mean '10.0.0.0/8'?
TypeError: WsServer: option 'trustedProxies' must be of type list of strings, string given
ValueError: WsServer: option 'admin' must be 'host:port' ('127.0.0.1:9090') or 'unix:///path', '9090': has a host that is not a name or an address: '9090'
ValueError: WsServer: option 'ioThreads' must be between 1 and 64, 65 given
TypeError: WsServer: option 'backlog' must be of type int, bool given
TypeError: WsServer: option 'proxyProtocol' must be of type bool, int given
ValueError: WsServer: option 'heartbeat.adaptive' must have min ≤ max, [60, 30] given
ValueError: WsServer: option 'heartbeat.preset' must be one of 'nginx', 'aws-elb', 'haproxy', 'cloudflare', 'grpc', 'mobile', 'ngnix' given; did you mean 'nginx'?
ValueError: WsServer: option 'heartbeat.accept' must name each beat and its answer (['ping' => 'pong']), a list was given
ValueError: WsServer: option 'tls.cert' must name a readable file: cannot read '/no/such.pem': No such file or directory (os error 2)
ValueError: WsServer: the option 'tls' is set but no address in $listen is wss://, so nothing would be encrypted
TypeError: WsServer: option 'tls' must be of type array (cert, key, clientCa, sni), string given
TypeError: WsServer: option 'logger' must be a PSR-3 logger (an object with a public method log), a callable or null, int given
nothing thrown
