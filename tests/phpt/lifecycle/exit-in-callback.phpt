--TEST--
exit() in a callback ends the script with its code; shutdown functions run, catch and finally do not
--FILE--
<?php
require __DIR__ . '/../inc/ws.php';
[$status, $output] = php(<<<'CODE'
register_shutdown_function(function () { echo "shutdown function\n"; });
$server = serve(['message' => function ($c, $data) { handle($c, $data); }, 'close' => function ($c, $code) { echo "onClose $code\n"; }]);
$peer = Peer::open($server);
$peer->text('go');

function handle($c, $data) { echo "handler\n"; exit(7); }
try { $server->run(); } catch (Throwable $e) { echo "caught\n"; } finally { echo "finally\n"; }
echo "not reached\n";
CODE);
echo $output, "status $status\n";
?>
--EXPECT--
handler
shutdown function
status 7
