--TEST--
exit() in onError, in a timer and in a nested poll() ends the script too
--FILE--
<?php
require __DIR__ . '/../inc/ws.php';
foreach ([
    'function handle($c, $data) { throw new Exception("x"); } $server->onError(function () { echo "onError\n"; exit(3); });',
    'function handle($c, $data) { } $server->after(0.01, function () { echo "timer\n"; exit(3); });',
    'function handle($c, $data) { global $server; $server->after(0, function () { echo "inner\n"; exit(3); }); $server->poll(5); echo "not reached\n"; }',
    'function handle($c, $data) { trigger_error("x", E_USER_WARNING); } set_error_handler(function () { echo "handler\n"; exit(3); });',
    'function handle($c, $data) { throw new Exception("x"); } set_error_handler(function () { echo "warned\n"; exit(3); });',
] as $code) {
    [$status, $output] = php('$server = serve([\'message\' => function ($c, $data) { handle($c, $data); }, \'close\' => function ($c, $code) { echo "onClose $code\n"; }]);
$peer = Peer::open($server);
$peer->text(\'go\');
' . $code . '$server->run(); echo "not reached\n";');
    echo trim($output), " $status\n";
}
?>
--EXPECT--
onError 3
timer 3
inner 3
handler 3
warned 3
