--TEST--
A fatal error in a callback ends the script; shutdown functions run and can still use the objects
--FILE--
<?php
require __DIR__ . '/../inc/ws.php';
[$status, $output] = php(<<<'CODE'
error_reporting(E_ALL & ~E_DEPRECATED); // PHP 8.4 deprecates E_USER_ERROR
register_shutdown_function(function () { global $server, $c; echo "shutdown ", count($server), " ", $server->poll(0), "\n"; $server->stop(0); });
$server = serve(['message' => function ($c, $data) { handle($c, $data); }, 'close' => function ($c, $code) { echo "onClose $code\n"; }]);
$peer = Peer::open($server);
$peer->text('go');

function handle($c, $data) { trigger_error('broken', E_USER_ERROR); }
$server->run();
CODE);
echo $output, "status $status\n";
?>
--EXPECTF--
Fatal error: broken in FILE on line %d
shutdown 1 0
status 255
