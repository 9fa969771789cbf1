--TEST--
set_time_limit() works in a callback that burns time, and in run() that serves short ones
--FILE--
<?php
require __DIR__ . '/../inc/ws.php';
foreach ([
    'function handle($c, $data) { set_time_limit(1); while (true); } $server->run();',
    'function handle($c, $data) { set_time_limit(1); } $server->every(0.0000001, fn () => 1); $server->run();',
] as $code) {
    [$status, $output] = php('$server = serve([\'message\' => function ($c, $data) { handle($c, $data); }, \'close\' => function ($c, $code) { echo "onClose $code\n"; }]);
$peer = Peer::open($server);
$peer->text(\'go\');
' . $code);
    echo trim($output), "\nstatus $status\n";
}
?>
--EXPECTF--
Fatal error: Maximum execution time of 1 second exceeded in FILE on line %d
status 255
Fatal error: Maximum execution time of 1 second exceeded in %s
status 255
