--TEST--
Gateway: a class of events as GatewayWorker has it
--EXTENSIONS--
lifeline
--FILE--
<?php
require __DIR__ . '/gateway.inc';
use Lifeline\Gateway;
final class Events
{
    public static function onConnect(string $clientId): void
    {
        echo "onConnect $clientId\n";
    }

    public static function onWebSocketConnect(string $clientId, array $data): void
    {
        echo "onWebSocketConnect $clientId {$data['get']['room']} {$data['cookie']['s']} {$data['server']['HTTP_X_NAME']} {$data['server']['QUERY_STRING']}\n";
        Gateway::joinGroup($clientId, $data['get']['room']);
        Gateway::setSession($clientId, ['room' => $data['get']['room']]);
    }

    public static function onMessage(string $clientId, string $message): void
    {
        Gateway::sendToGroup(Gateway::getSession($clientId)['room'], "$clientId: $message");
    }

    public static function onClose(string $clientId): void
    {
        echo "onClose $clientId\n";
    }
}
$server = new WsServer('ws://127.0.0.1:0');
Gateway::attach($server, Events::class);
$server->start();
$peer = Peer::open($server, '/?room=r1', ['Cookie: s=abc', 'X-Name: Ann']);
$peer->text('hello');
echo $peer->next($server), "\n";
$peer->close();
pump($server, fn () => count($server) === 0, 'the end');
$server->poll();
// An object with only what it needs.
$server = serve();
Gateway::attach($server, new class {
    public function onMessage(string $clientId, string $message): void
    {
        Gateway::sendToClient($clientId, strrev($message));
    }
});
$peer = Peer::open($server);
$peer->text('abc');
echo $peer->next($server), "\n";
?>
--EXPECT--
onConnect 1
onWebSocketConnect 1 r1 abc Ann room=r1
text 1: hello
onClose 1
text cba
