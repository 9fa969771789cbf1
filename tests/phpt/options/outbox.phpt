--TEST--
outbox: limit, bytes, ttl, blockTimeout and each overflow while there is no link
--EXTENSIONS--
lifeline
--FILE--
<?php
require __DIR__ . '/../inc/client.php';
$nobody = (new RawServer())->url();
/** What send() says to messages 1, 2, 3 and what onOverflow is told. */
function three(string $url, array $outbox): string
{
    $client = new WsClient($url, ['outbox' => $outbox, 'reconnect' => ['base' => 100, 'max' => 100, 'first' => 100], 'logLevel' => 'emergency']);
    $client->after(LIMIT, fn () => $client->close());
    $told = [];
    $client->onOverflow(function (int $sequence, string $data, string $why) use (&$told) { $told[] = "$sequence $why"; });
    $said = [];
    for ($i = 1; $i <= 3; $i++) {
        try {
            $said[] = $client->send("message $i");
        } catch (WsException $e) {
            $said[] = get_class($e);
        }
    }
    $end = microtime(true) + (isset($outbox['ttl']) ? LIMIT : 0);
    do {
        $client->poll(0.02);
    } while (microtime(true) < $end && count($told) < 3);
    $words = implode(' ', $said) . ' | ' . implode(', ', $told) . ' | ' . $client->unacknowledged() . ' left';
    $client->close();
    return $words;
}
echo 'error: ', three($nobody, ['limit' => 2]), "\n";
echo 'bytes: ', three($nobody, ['bytes' => 20, 'overflow' => 'error']), "\n";
echo 'dropOldest: ', three($nobody, ['limit' => 2, 'overflow' => 'dropOldest']), "\n";
echo 'dropNewest: ', three($nobody, ['limit' => 2, 'overflow' => 'dropNewest']), "\n";
echo 'block: ', three($nobody, ['limit' => 2, 'overflow' => 'block', 'blockTimeout' => 0.05]), "\n";
echo 'ttl: ', three($nobody, ['ttl' => 0.05]), "\n";
--EXPECT--
error: 1 2 WsOverflowException |  | 2 left
bytes: 1 2 WsOverflowException |  | 2 left
dropOldest: 1 2 3 | 1 limit | 2 left
dropNewest: 1 2 3 | 3 limit | 2 left
block: 1 2 WsTimeoutException |  | 2 left
ttl: 1 2 3 | 1 expired, 2 expired, 3 expired | 0 left
