--TEST--
limits.memory: the largest of the servers and clients alive; limits.authTimeout: who waits for PHP too long is refused
--EXTENSIONS--
lifeline
--FILE--
<?php
require __DIR__ . '/../inc/ws.php';
$small = ['maxMessage' => 50000, 'inbound' => 50000];
$one = serve([], ['limits' => ['memory' => 70000] + $small, 'send' => ['limit' => 50000], 'resume' => ['bytes' => 50000]]);
echo $one->stats()['memory']['limit'], "\n";
$two = serve([], ['limits' => ['memory' => 90000] + $small, 'send' => ['limit' => 50000], 'resume' => ['bytes' => 50000]]);
echo $one->stats()['memory']['limit'], "\n";

$server = serve(['handshake' => fn () => true], ['limits' => ['authTimeout' => 0.1]]);
$peer = new Peer($server->address());
echo strtok($peer->head(), "\r"), "\n"; // nobody dispatches
?>
--EXPECT--
70000
90000
HTTP/1.1 503 Service Unavailable
