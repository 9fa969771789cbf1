--TEST--
keys of any bytes, long ones, and objects of anonymous classes are named in errors
--EXTENSIONS--
lifeline
--FILE--
<?php
function thrown(callable $f): string
{
    try {
        $f();
        return 'nothing thrown';
    } catch (Throwable $error) {
        return get_class($error) . ': ' . preg_replace('~ Allowed options.*~', '', $error->getMessage());
    }
}
$server = fn (array $options) => new WsServer('ws://127.0.0.1:0', $options);
echo thrown(fn () => $server(["\xFF" => 1])), "\n";
echo thrown(fn () => $server(['limits' => ["\xFFx" => 1]])), "\n";
echo thrown(fn () => $server(['heartbeat' => ['accept' => ["\xFF" => 'x']]])), "\n";
echo thrown(fn () => $server([str_repeat('x', 200) => 1])), "\n";
echo thrown(fn () => $server(['limits' => new class () {}])), "\n";
echo thrown(fn () => $server(['backlog' => new class () extends ArrayObject {}])), "\n";
$client = new WsClient('ws://127.0.0.1:1/');
echo thrown(fn () => $client->sendMany(["\xFF" => 'a', 'b' => 1])), "\n";
echo thrown(fn () => $client->document('board', ["\xFF" => 'a'])), "\n";
$plain = new WsServer('ws://127.0.0.1:0');
$plain->start();
echo thrown(fn () => $plain->document('board', ["\xFF\n" => 'a'])), "\n";
$plain->stop(0);
?>
--EXPECT--
ValueError: WsServer: unknown option '�' (1 given).
ValueError: WsServer: unknown option 'limits.�x' (1 given).
ValueError: WsServer: option 'heartbeat.accept' must hold valid UTF-8 (RFC 6455 section 5.6)
ValueError: WsServer: unknown option 'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx…' (1 given).
TypeError: WsServer: option 'limits' must be of type array (memory, maxMessage, maxFrame, maxFragments, inbound, maxConnections, perIp, maxChannels, maxSubscriptions, handshakeTimeout, authTimeout, maxHeaderBytes, maxSessions, messageRate, byteRate, rateAction), class@anonymous given
TypeError: WsServer: option 'backlog' must be of type int, ArrayObject@anonymous given
TypeError: WsClient::sendMany(): Argument #1 ($messages) must be a list of strings, element 1 is int
ValueError: WsClient::document(): unknown option '�', known is conflict
ValueError: WsServer::document(): unknown option '�\n', known are bytes, keys, write
