--TEST--
WsClient and WsServer in one process, plain WebSocket: open, text, binary, close, each callback with its arguments
--EXTENSIONS--
lifeline
--FILE--
<?php
require __DIR__ . '/../inc/client.php';
$server = echo_server(['close' => function (WsConnection $c, int $code, string $reason, bool $clean) use (&$left) {
    $left = "server onClose $code '$reason' " . var_export($clean, true);
}]);
$client = new WsClient($server->address() . '/chat?room=1', ['protocols' => []]);
$got = [];
$client
    ->onOpen(function (WsClient $c, bool $resumed) use ($client) {
        echo 'open ', var_export($c === $client, true), ' ', var_export($resumed, true), "\n";
        $c->send('text ✓');
        $c->send("\x00\xFF", true);
        $c->send(str_repeat('x', 100_000));
    })
    ->onMessage(function (WsClient $c, string $data, bool $binary, WsMessage $m) use (&$got, $client) {
        $got[] = strlen($data) > 100 ? strlen($data) . ' bytes' : bin2hex($data);
        if ($c !== $client || $m->data !== $data || (string) $m !== $data || $m->binary !== $binary) {
            echo "wrong message\n";
        }
        if ($m->id !== null || $m->channel !== null || $m->sequence !== null) {
            echo "fields of lifeline.v1\n";
        }
        $got[] = $binary ? 'binary' : 'text';
        if (count($got) === 6) {
            $c->close(3001, 'enough');
        }
    })
    ->onClose(function (WsClient $c, int $code, string $reason, bool $clean) {
        echo "client onClose $code '$reason' ", var_export($clean, true), "\n";
    });
$client->run();
echo implode("\n", $got), "\n";
until($server, function () use (&$left) { return $left !== null; }, "the server's onClose");
echo "$left\n";
var_dump($client->state());
$client->run(); // returns at once
echo "done\n";
--EXPECT--
open true false
client onClose 3001 'enough' true
7465787420e29c93
text
00ff
binary
100000 bytes
text
server onClose 3001 'enough' true
enum(WsState::Closed)
done
