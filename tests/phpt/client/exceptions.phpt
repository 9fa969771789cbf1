--TEST--
What a client's callback throws leaves through run(), unless onError is set; the client goes on
--EXTENSIONS--
lifeline
--FILE--
<?php
require __DIR__ . '/../inc/client.php';
final class Mine extends DomainException {}
$server = echo_server();
$client = new WsClient($server->address());
$client->onMessage(function (WsClient $c, string $data) {
    if ($data === 'last') {
        $c->close();
        return;
    }
    throw new Mine($data, 7, new RuntimeException('before'));
});
$client->sendMany(['a', 'b']);
for ($i = 0; $i < 2; $i++) {
    try {
        $client->run();
        echo "returned\n";
    } catch (Mine $e) {
        echo $e->getMessage(), ' ', $e->getCode(), ' ', $e->getPrevious()->getMessage(), ' line ', $e->getLine(), "\n";
    }
}
$client->onError(function (Throwable $e) { echo 'onError ', get_class($e), ' ', $e->getMessage(), "\n"; });
$client->sendMany(['c', 'last']);
$client->run();

echo "-- onError throws\n";
$client = new WsClient($server->address());
$client->onOpen(fn () => throw new Mine('open'));
$client->onError(fn (Throwable $e) => throw new LogicException('onError', 0, $e));
echo thrown(fn () => $client->run()), "\n";

echo "-- timers\n";
$client->after(0, fn () => throw new Mine('timer'));
echo thrown(fn () => $client->run()), "\n";
$client->close();
$client->run();

echo "-- exit\n";
[$status, $output] = php('
    $server = serve(["message" => fn ($c, $d) => $c->send($d)]);
    $client = new WsClient($server->address());
    $client->onMessage(function () { echo "exiting\n"; exit(7); });
    $client->onError(function () { echo "not for exit\n"; });
    $client->send("x");
    register_shutdown_function(function () { echo "shutdown\n"; });
    try { $client->run(); } finally { echo "not reached\n"; }
');
echo "$output$status\n";

echo "-- fatal error\n";
[$status, $output] = php('
    $server = serve(["message" => fn ($c, $d) => $c->send($d)]);
    $client = new WsClient($server->address());
    $client->onMessage(function () { trigger_error("fatal", E_USER_ERROR); });
    $client->send("x");
    register_shutdown_function(function () { echo "shutdown\n"; });
    $client->run();
', ['error_reporting' => (string) E_USER_ERROR]);
echo preg_match('/Fatal error: fatal/', $output), ' ', str_ends_with($output, "shutdown\n") ? 'shutdown' : $output, " $status\n";
--EXPECT--
a 7 before line 11
b 7 before line 11
onError Mine c
-- onError throws
LogicException: onError
-- timers
LogicException: onError
-- exit
exiting
shutdown
7
-- fatal error
1 shutdown 255
