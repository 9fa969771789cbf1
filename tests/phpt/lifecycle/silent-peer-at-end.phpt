--TEST--
A peer that does not answer does not hold up the end of the script
--FILE--
<?php
require __DIR__ . '/../inc/ws.php';
[$status, $output] = php('
    $server = serve();
    $peer = Peer::open($server);
    register_shutdown_function(function () { echo microtime(true), "\n"; });
');
var_dump($status, microtime(true) - (float) $output < 5);
?>
--EXPECT--
int(0)
bool(true)
