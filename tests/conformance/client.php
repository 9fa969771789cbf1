<?php
// The client under test: asks how many cases there are and runs each, echoing until it is closed.
// Usage: client.php ws://host:port
declare(strict_types=1);

const MIB = 1 << 20;

function visit(string $url, callable $onMessage): void
{
    $client = new WsClient($url, [
        'limits' => ['maxMessage' => 16 * MIB, 'maxFrame' => 16 * MIB, 'inbound' => 32 * MIB],
        'outbox' => ['bytes' => 64 * MIB],
    ]);
    $client->onMessage($onMessage);
    // One connection a case: whatever ends it, this client does not come back.
    $client->onClose(fn (WsClient $c) => $c->close());
    // Broken frames are what most cases are about; the suite judges what was made of them.
    $client->onError(function (): void {});
    $client->connect();
    $client->run();
}

$base = $argv[1];
$count = 0;
visit("$base/getCaseCount", function (WsClient $c, string $data) use (&$count): void {
    $count = (int) $data;
});
echo "$count cases\n";
for ($case = 1; $case <= $count; $case++) {
    visit("$base/runCase?case=$case&agent=lifeline", function (WsClient $c, string $data, bool $binary): void {
        $c->send($data, $binary);
    });
}
visit("$base/updateReports?agent=lifeline", function (): void {});
