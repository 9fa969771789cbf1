--TEST--
Options of sessions are checked; subprotocols are chosen in the server's order, lifeline.v1 last unless it is listed
--FILE--
<?php
require __DIR__ . '/../inc/lifeline.php';
foreach ([['ack' => 'never'], ['redelivery' => ['limit' => 0]], ['resume' => ['ttl' => -1]], ['resume' => ['count' => 0]], ['resume' => ['byte' => 1]],
    ['dedupe' => ['ttl' => 'week']], ['limits' => ['maxSessions' => 0]], ['store' => 'disk']] as $options) {
    try { new WsServer('ws://127.0.0.1:0', $options); echo "fine\n"; } catch (ValueError | TypeError $e) { echo $e->getMessage(), "\n"; }
}
$agreed = function (array $options, string $offer, ?callable $handshake = null) {
    $server = serve($handshake ? ['handshake' => $handshake] : [], $options);
    $peer = new Peer($server->address(), '/', ["Sec-WebSocket-Protocol: $offer"]);
    preg_match('/^Sec-WebSocket-Protocol: (\S+)/mi', $peer->head($server), $m);
    return $m[1] ?? 'none';
};
echo $agreed([], 'chat, lifeline.v1'), ' ', $agreed([], 'chat'), ' ', $agreed(['protocols' => ['chat']], 'lifeline.v1, chat'), ' ',
    $agreed(['protocols' => ['chat']], 'lifeline.v1'), ' ', $agreed(['protocols' => ['lifeline.v1', 'chat']], 'chat, lifeline.v1'), ' ',
    $agreed([], 'lifeline.v1, chat', fn () => ['protocol' => 'chat']), ' ', $agreed(['protocols' => ['chat']], 'lifeline.v1, chat', fn () => ['protocol' => 'lifeline.v1']), "\n";
$server = serve([], ['limits' => ['maxSessions' => 1]]);
$one = LifelinePeer::open($server);
$two = new LifelinePeer($server, 'two');
$two->hello();
echo $two->read(), "\n";
$server = serve();
foreach (['onAuth', 'onSubscribe', 'onSnapshot'] as $method) {
    try { $server->$method(fn () => true); } catch (WsException $e) { echo $e->getMessage(), "\n"; }
}
$server->onSessionEnd(fn () => null);
?>
--EXPECT--
WsServer: option 'ack' must be one of 'auto', 'manual', 'never' given
WsServer: option 'redelivery.limit' must be between 1 and 1000, 0 given
WsServer: option 'resume.ttl' must be between 0 and 31536000 seconds, -1 given
WsServer: option 'resume.count' must be between 1 and 2147483647, 0 given
WsServer: unknown option 'resume.byte' (1 given); did you mean 'resume.bytes'? Allowed options of 'resume': ttl, count, bytes
WsServer: option 'dedupe.ttl' must be of type int|float (seconds), string given
WsServer: option 'limits.maxSessions' must be between 1 and 2147483647, 0 given
WsServer: option 'store' must be 'memory' or 'file:///directory', 'disk' given
lifeline.v1 none chat lifeline.v1 lifeline.v1 chat lifeline.v1
close 1013 there are as many sessions as limits.maxSessions
WsServer::onAuth() must be called before start()
WsServer::onSubscribe() must be called before start()
WsServer::onSnapshot() must be called before start()
