<?php
// The client under test: asks how many cases there are and runs each, echoing until it is closed.
// Usage: client.php ws|wss://host:port deflate|plain [ca]
declare(strict_types=1);

const MIB = 1 << 20;

[, $base, $compression] = $argv;
$options = [
    'limits' => ['maxMessage' => 16 * MIB, 'maxFrame' => 16 * MIB, 'inbound' => 32 * MIB],
    'outbox' => ['bytes' => 64 * MIB],
    // One connection a case: a second one, however short, would be judged in its place.
    'reconnect' => ['first' => 60, 'jitter' => 'none'],
];
if (isset($argv[3])) {
    $options['tls'] = ['ca' => $argv[3]];
}
if ($compression === 'deflate') {
    // Each message is compressed, also one of 16 bytes.
    $options['compression'] = ['threshold' => 0, 'contextTakeover' => true];
}

$visit = function (string $url, callable $onMessage) use ($options): void {
    $client = new WsClient($url, $options);
    $client->onMessage($onMessage);
    $client->onClose(fn (WsClient $c) => $c->close());
    // Broken frames are what most cases are about; the suite judges what was made of them.
    $client->onError(function (): void {});
    $client->connect();
    $client->run();
};

$count = 0;
$visit("$base/getCaseCount", function (WsClient $c, string $data) use (&$count): void {
    $count = (int) $data;
});
echo "$count cases\n";
for ($case = 1; $case <= $count; $case++) {
    $visit("$base/runCase?case=$case&agent=lifeline", function (WsClient $c, string $data, bool $binary): void {
        $c->send($data, $binary);
    });
}
$visit("$base/updateReports?agent=lifeline", function (): void {});
