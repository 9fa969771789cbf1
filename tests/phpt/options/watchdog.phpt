--TEST--
watchdog: while a callback holds PHP up the server is not ready, afterwards it is again
--EXTENSIONS--
lifeline
--FILE--
<?php
require __DIR__ . '/../inc/ws.php';
/** The code of /readyz; the engine answers while this script waits. */
function ready(string $admin): string
{
    @file_get_contents("$admin/readyz", false, stream_context_create(['http' => ['ignore_errors' => true]]));
    return explode(' ', $http_response_header[0])[1];
}
function becomes(string $wanted, string $admin, callable $meanwhile): string
{
    $end = microtime(true) + LIMIT;
    while (($now = ready($admin)) !== $wanted && microtime(true) < $end) {
        $meanwhile();
    }
    return $now;
}
$logger = new class {
    public array $lines = [];
    public function log($level, $message) { $this->lines[] = "$level: $message"; }
};
$server = serve(['message' => function () use (&$admin, &$during) {
    $during = becomes('503', $admin, fn () => usleep(1000));
}], ['admin' => '127.0.0.1:0', 'watchdog' => ['lag' => 0.3, 'action' => 'unready'], 'logger' => $logger]);
$admin = $server->stats()['admin'];
$peer = Peer::open($server);
echo becomes('200', $admin, fn () => $server->poll(0.01)), "\n";
$peer->text('block');
pump($server, function () use (&$during) { return $during !== null; }, 'the callback');
echo $during, "\n", becomes('200', $admin, fn () => $server->poll(0.01)), "\n";
var_dump($server->stats()['watchdog']['fired'] >= 1);
pump($server, fn () => $logger->lines !== [], 'the record');
echo $logger->lines[0], "\n"; // the first goes to stderr: PHP does not run
?>
--EXPECTREGEX--
(?=.*lifeline: watchdog: PHP has not dispatched for [\d.]+ s \(watchdog.lag is 0.3 s\), \d+ events wait)(?#
  the report is written to stderr by another thread, so it may come in anywhere
)200
(lifeline: watchdog: [^\n]+
)?503
(lifeline: watchdog: [^\n]+
)?200
(lifeline: watchdog: [^\n]+
)?bool\(true\)
(lifeline: watchdog: [^\n]+
)?warning: watchdog: PHP dispatches again(
lifeline: watchdog: [^\n]+)?
