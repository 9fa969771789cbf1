--TEST--
The option logger gets PSR-3 records; what it throws goes to onError; a failure nobody asked for is logged
--EXTENSIONS--
lifeline
--FILE--
<?php
require __DIR__ . '/../inc/client.php';
$raw = new RawServer();
final class Psr
{
    public array $levels = [];
    public function log($level, string|Stringable $message, array $context = []): void
    {
        $this->levels[$level] = true;
        if (!is_string($message) || $message === '') {
            echo "no message\n";
        }
    }
}
$psr = new Psr();
$closed = new RawServer();
$url = $closed->url();
unset($closed);
$client = new WsClient($url, ['logger' => $psr, 'logLevel' => 'debug', 'reconnect' => ['maxAttempts' => 1] + FAST['reconnect']]);
echo preg_replace('/:.*/s', '', thrown(fn () => $client->run())), "\n";
echo array_diff(array_keys($psr->levels), ['debug', 'info', 'notice', 'warning', 'error']) ? "unknown level\n" : "levels of PSR-3\n";

echo "-- nobody asked\n";
[$status, $output] = php('
    $client = new WsClient("' . $url . '", ["logLevel" => "emergency", "reconnect" => ["maxAttempts" => 1, "first" => 0.01]]);
    $client->connect();
    $server = new WsServer("ws://127.0.0.1:0", ["logLevel" => "emergency"]);
    $server->every(0.01, fn () => $client->state() === WsState::Closed && $server->after(0.05, fn () => $server->stop(0)));
    $server->run();
    unset($client);
');
echo $status, ' ', preg_match('/lifeline error: a WsClient gave up and nobody asked it: \S+/', $output) ? 'logged' : $output, "\n";
--EXPECT--
WsConnectException
levels of PSR-3
-- nobody asked
0 logged
