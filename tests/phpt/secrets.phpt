--TEST--
Secrets are in no log, stats(), phpinfo(), exception, trace or dump of an object: credentials in URLs, of proxies, headers, tokens
--EXTENSIONS--
lifeline
--INI--
zend.exception_ignore_args=0
zend.exception_string_param_max_len=1000
--FILE--
<?php
require __DIR__ . '/inc/client.php';
const SECRETS = [
    'url' => 'PasswordInUrl', 'proxy' => 'PasswordOfProxy', 'header' => 'BearerInHeader', 'attempt' => 'BearerOfAttempt', 'token' => 'TokenOfClient',
    'query' => 'TokenInQuery', 'key' => 'PathOfTheKey',
];
$encoded = SECRETS + ['url64' => rtrim(base64_encode('ann:' . SECRETS['url']), '='), 'proxy64' => rtrim(base64_encode('bob:' . SECRETS['proxy']), '=')];
/** Everything that was written, said, thrown or dumped, by where it was. */
$seen = [];
function see(string $where, mixed $what): void
{
    global $seen;
    $seen[$where] = ($seen[$where] ?? '') . (is_string($what) ? $what : print_r($what, true));
}
function dumped(string $where, object $object): void
{
    ob_start();
    var_dump($object);
    print_r($object);
    var_export((array) $object);
    debug_zval_dump($object);
    see("dump of $where", ob_get_clean() . json_encode($object));
    see("stats of $where", method_exists($object, 'stats') ? $object->stats() : '');
}
function thrown_here(string $where, callable $call): ?Throwable
{
    try {
        $call();
    } catch (Throwable $e) {
        // Frames of ours: those of this script have what it says of itself.
        $frames = array_filter($e->getTrace(), fn (array $frame): bool => str_starts_with($frame['class'] ?? '', 'Ws'));
        see("exception of $where", $frames === [] ? "no frame of ours" : $e . print_r($frames, true));
        return $e;
    }
    return null;
}
set_error_handler(function (int $level, string $message) { see('warnings', $message); return true; });
$log = fn (string $where) => function (string $level, string $message, array $context) use ($where) { see("log of $where", "$level $message " . json_encode($context) . "\n"); };
$options = fn (array $more = []) => $more + [
    'logger' => $log('client'), 'logLevel' => 'debug', 'protocols' => [],
    'connect' => ['headers' => ['Authorization' => 'Bearer ' . SECRETS['header']], 'proxy' => false, 'timeout' => 5],
    'reconnect' => ['maxAttempts' => 1] + FAST['reconnect'],
];

// Constructors that throw: of the URL, of an option, of the proxy, of TLS.
$url = 'ws://ann:' . SECRETS['url'] . '@127.0.0.1:1/?token=' . SECRETS['query'];
$errors = [
    'bad option' => fn () => new WsClient($url, ['bogus' => 1] + $options()),
    'bad type' => fn () => new WsClient($url, ['connect' => ['headers' => ['Authorization' => new stdClass]]]),
    'bad list' => fn () => new WsClient([$url, 'ftp://ann:' . SECRETS['url'] . '@127.0.0.1/'], $options()),
    'bad port' => fn () => new WsClient('ws://ann:' . SECRETS['url'] . '@127.0.0.1:99999/'),
    'bad character' => fn () => new WsClient("ws://ann:" . SECRETS['url'] . "@127.0.0.1/a\nb"),
    'bad proxy' => fn () => new WsClient('ws://127.0.0.1:1/', ['connect' => ['proxy' => 'ftp://bob:' . SECRETS['proxy'] . '@127.0.0.1:1']]),
    'bad header' => fn () => new WsClient('ws://127.0.0.1:1/', ['connect' => ['headers' => ['Authorization' => "Bearer " . SECRETS['header'] . "\r\nX: y"]]]),
    'server' => fn () => new WsServer('ws://127.0.0.1:0', ['bogus' => SECRETS['key']]),
    'server listens' => fn () => new WsServer('ws://ann:' . SECRETS['url'] . '@127.0.0.1:0'),
    'named arguments' => fn () => new WsClient(options: ['bogus' => SECRETS['header']], url: $url),
];
foreach ($errors as $where => $call) {
    echo thrown_here($where, $call) ? '' : "$where: nothing thrown\n";
}
$e = thrown_here('trace', $errors['bad option']);
foreach ($e->getTrace()[0]['args'] as $argument) {
    echo $argument instanceof SensitiveParameterValue ? 'hidden' : get_debug_type($argument), "\n";
}

// Attempts that fail in each way: nobody there, refused, a proxy that is none, no TLS.
$server = serve(['handshake' => fn (WsRequest $r) => ['status' => 401, 'body' => 'no']], ['logger' => $log('server'), 'logLevel' => 'debug']);
$port = parse_url($server->address(), PHP_URL_PORT);
foreach ([
    'closed port' => ['ws://ann:' . SECRETS['url'] . '@127.0.0.1:1/?token=' . SECRETS['query'], []],
    'refused' => ['ws://ann:' . SECRETS['url'] . "@127.0.0.1:$port/?token=" . SECRETS['query'], []],
    'proxy' => ['ws://ann:' . SECRETS['url'] . '@127.0.0.1:2/?token=' . SECRETS['query'], ['connect' => ['proxy' => 'http://bob:' . SECRETS['proxy'] . "@127.0.0.1:$port"]]],
    'no proxy there' => ['ws://127.0.0.1:2/', ['connect' => ['proxy' => 'http://bob:' . SECRETS['proxy'] . '@127.0.0.1:1']]],
    'TLS' => ['wss://ann:' . SECRETS['url'] . "@127.0.0.1:$port/?token=" . SECRETS['query'], ['tls' => ['verify' => false], 'connect' => ['proxy' => false]]],
] as $where => [$to, $more]) {
    $client = new WsClient($to, $options($more));
    $client->onConnecting(fn (): array => ['X-Attempt' => SECRETS['attempt']]);
    $client->onToken(fn (): string => SECRETS['token']);
    $client->onStateChange(fn (WsTransition $t) => see("transition, $where", $t->reason));
    $client->onError(fn (Throwable $e) => see("error, $where", (string) $e . print_r($e->getTrace(), true)));
    $client->connect();
    until($client, fn () => $client->state() === WsState::Closed, $where);
    dumped("client, $where", $client);
}
$server->stop(0);

// A session: the token in HELLO, the session's own token, an onAuth that throws with the token in its arguments.
// No closure that calls itself: that is a cycle, which PHP does not collect when it ends.
function check(string $token, int $deep): array
{
    return $deep ? check($token, $deep - 1) : throw new LogicException('the database is away', 0, new RuntimeException('before'));
}
$auth = fn (WsRequest $r, ?string $token, ?WsSession $s): array => $GLOBALS['broken'] ? check($token, 2) : ['user' => 'ann'];
$GLOBALS['broken'] = false;
$server = serve(['auth' => $auth], ['logger' => $log('session server'), 'logLevel' => 'debug']);
$client = new WsClient($server->address(), $options(['protocols' => ['lifeline.v1'], 'connect' => ['proxy' => false]]));
$client->onToken(fn (): string => SECRETS['token']);
$client->onError(fn (Throwable $e) => see('error, session', (string) $e . print_r($e->getTrace(), true)));
$client->connect();
until($server, fn () => $client->state() === WsState::Connected, 'a session');
[$connection] = [...$server->connections()];
$connection->trace(true);
foreach (['session' => $connection->session, 'connection' => $connection, 'session server' => $server, 'session client' => $client] as $where => $object) {
    dumped($where, $object);
}
$GLOBALS['broken'] = true;
$client->onToken(fn (): string => SECRETS['token']);    // asked at once, and told in band
until($server, function () use (&$seen) { return isset($seen['warnings']); }, 'the warning of onAuth');
echo str_contains($seen['warnings'], 'the database is away') && str_contains($seen['warnings'], 'SensitiveParameterValue') ? "told, without the token\n" : $seen['warnings'];
$client->close();
$server->stop(0);

ob_start();
phpinfo(INFO_MODULES | INFO_CONFIGURATION);
(new ReflectionExtension('lifeline'))->info();
see('phpinfo', preg_replace('/^(argv|\$_SERVER).*$/m', '', ob_get_clean()));

echo count($seen) >= 30 ? '' : count($seen) . " places only\n";
echo isset($seen['log of client']) ? '' : "nothing was logged\n";
foreach ($seen as $where => $text) {
    foreach ($encoded as $name => $secret) {
        if (str_contains($text, $secret) || str_contains($text, substr($secret, 0, 10))) {
            $at = strpos($text, substr($secret, 0, 10));
            echo "$where has the secret of '$name': ", substr($text, max(0, $at - 100), 160), "\n";
        }
    }
}
echo "done\n";
?>
--EXPECT--
hidden
hidden
told, without the token
done
