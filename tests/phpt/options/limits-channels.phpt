--TEST--
limits.maxChannels and maxSubscriptions: subscribe() throws and names the limit
--EXTENSIONS--
lifeline
--FILE--
<?php
require __DIR__ . '/../inc/client.php';
$server = serve([], ['limits' => ['maxChannels' => 3, 'maxSubscriptions' => 2]]);
$peers = [Peer::open($server), Peer::open($server)];
[$one, $two] = [...$server->connections()];
$one->subscribe('a');
$one->subscribe('b');
echo thrown(fn () => $one->subscribe('c')), "\n";
$two->subscribe('c');
echo thrown(fn () => $two->subscribe('d')), "\n";
$two->unsubscribe('c');
$two->subscribe('d');
$channels = $server->channels();
sort($channels);
echo implode(' ', $channels), "\n";
--EXPECT--
WsException: connection 1 is in 2 channels, limits.maxSubscriptions allows 2
WsException: there are 3 channels, limits.maxChannels allows 3
a b d
