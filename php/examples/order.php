<?php
// Orders at orders.php. An order is on disk before it is sent: kill this, stop the server, start both again, and it
// arrives, once.
//   php examples/order.php [ws://127.0.0.1:8080 [DIRECTORY [ORDER...]]]
declare(strict_types=1);

$url = $argv[1] ?? 'ws://127.0.0.1:8080';
$directory = $argv[2] ?? sys_get_temp_dir() . '/lifeline-orders';

$client = new WsClient($url, ['outbox' => ['path' => $directory]]);
$client->onToken(fn (): string => 'secret');
$client->onMessage(function (WsClient $c, string $data): void {
    echo "< $data", PHP_EOL;
});
$client->onReject(function (int $sequence, string $order, int $code, string $reason): void {
    echo "! $order: $reason", PHP_EOL;
});
foreach (array_slice($argv, 3) as $order) {
    $client->send($order);
}
$client->connect();
$handled = $client->flush(10);
// What was said along with the last acknowledgement.
while ($client->poll(0.2) > 0) {
}
echo $handled ? 'all is handled' : "{$client->unacknowledged()} wait for the next time", PHP_EOL;
$client->close();
$client->run();
