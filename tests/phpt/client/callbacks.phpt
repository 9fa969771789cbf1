--TEST--
Callbacks of WsClient: only declared arguments, every kind of callable, replaced when set again, shapes checked
--EXTENSIONS--
lifeline
--FILE--
<?php
require __DIR__ . '/../inc/client.php';
$server = echo_server();
$calls = [];
final class Handler
{
    public static function fixed(WsClient $c, string $data): void { global $calls; $calls[] = "static $data"; }
    public function method(...$all): void { global $calls; $calls[] = 'method ' . count($all); }
    public function __call($name, $all): void { global $calls; $calls[] = "$name " . count($all); }
    public function __invoke($c): void { global $calls; $calls[] = 'invoke ' . func_num_args(); }
}
function on_message(WsClient $c): void { global $calls; $calls[] = 'function ' . func_num_args(); }
$client = new WsClient($server->address());
$next = function (callable $callback) use ($client, &$calls) {
    $n = count($calls);
    $client->onMessage($callback);
    $client->send('x');
    $client->connect();
    until($client, function () use (&$calls, $n) { return count($calls) > $n; }, 'the message');
};
$next('Handler::fixed');
$next([new Handler(), 'method']);
$next([new Handler(), 'magic']);
$next(new Handler());
$next('on_message');
$next(on_message(...));
$next(function () use (&$calls) { $calls[] = 'closure ' . func_num_args(); });
$next(function (?WsClient $c = null, $d = null, $b = null, $m = null, $more = 'default') use (&$calls) { $calls[] = 'defaults ' . func_num_args() . " $more"; });
echo implode("\n", $calls), "\n";
foreach (['open' => 2, 'message' => 4, 'close' => 4, 'stateChange' => 1, 'connecting' => 2, 'error' => 1, 'drain' => 1, 'overflow' => 3, 'token' => 0, 'gap' => 1, 'snapshot' => 3, 'reject' => 4] as $event => $offered) {
    $fresh = new WsClient('ws://a');
    $code = 'return fn (' . implode(', ', array_map(fn ($i) => "\$a$i", range(0, $offered))) . ') => 0;';
    echo thrown(fn () => $fresh->on($event, eval($code))), "\n";
}
echo thrown(fn () => $client->on('Message', fn () => 0)), "\n";
echo thrown(fn () => $client->onOpen('no_such')), "\n";
var_dump($client->onOpen(fn () => 0) === $client, $client->on('open', fn () => 0) === $client);
$client->close();
$client->run();
--EXPECT--
static x
method 4
magic 4
invoke 1
function 1
function 1
closure 0
defaults 4 default
TypeError: WsClient::onOpen(): the callback requires 3 arguments, but is passed 2 at most
TypeError: WsClient::onMessage(): the callback requires 5 arguments, but is passed 4 at most
TypeError: WsClient::onClose(): the callback requires 5 arguments, but is passed 4 at most
TypeError: WsClient::onStateChange(): the callback requires 2 arguments, but is passed 1 at most
TypeError: WsClient::onConnecting(): the callback requires 3 arguments, but is passed 2 at most
TypeError: WsClient::onError(): the callback requires 2 arguments, but is passed 1 at most
TypeError: WsClient::onDrain(): the callback requires 2 arguments, but is passed 1 at most
TypeError: WsClient::onOverflow(): the callback requires 4 arguments, but is passed 3 at most
TypeError: WsClient::onToken(): the callback requires 1 arguments, but is passed 0 at most
TypeError: WsClient::onGap(): the callback requires 2 arguments, but is passed 1 at most
TypeError: WsClient::onSnapshot(): the callback requires 4 arguments, but is passed 3 at most
TypeError: WsClient::onReject(): the callback requires 5 arguments, but is passed 4 at most
ValueError: WsClient::on(): Argument #1 ($event) must be one of 'open', 'message', 'close', 'stateChange', 'connecting', 'error', 'drain', 'overflow', 'token', 'gap', 'snapshot', 'reject', 'Message' given
TypeError: WsClient::onOpen(): Argument #1 ($callback) must be a valid callback, function "no_such" not found or invalid function name
bool(true)
bool(true)
