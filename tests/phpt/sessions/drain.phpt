--TEST--
stop() asks clients of lifeline.v1 to leave within the drain time, and closes the rest with 4000
--FILE--
<?php
require __DIR__ . '/../inc/lifeline.php';
$closed = [];
$server = serve(['close' => function ($c, $code, $reason, $clean) use (&$closed) { $closed[] = "$code " . var_export($clean, true); }]);
$leaves = LifelinePeer::open($server, 'leaves');
$stays = LifelinePeer::open($server, 'stays');
$start = microtime(true);
$server->stop(1.0);
echo $leaves->read(), "\n", $stays->read(), "\n";
$leaves->peer->close(1001);
echo $leaves->read(), "\n";
echo $stays->read(), "\n";
var_dump(microtime(true) - $start > 0.5);
$stays->peer->close(4000);
$server->run();
var_dump($closed, microtime(true) - $start < 10);
?>
--EXPECT--
X {"after":0,"window":0.675}
X {"after":0,"window":0.675}
close 1001
close 4000 server shutdown
bool(true)
array(2) {
  [0]=>
  string(9) "1001 true"
  [1]=>
  string(9) "4000 true"
}
bool(true)
