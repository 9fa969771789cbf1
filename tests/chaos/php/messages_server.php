<?php
// Handles what messages_client.php sends, writes it down and answers it.
//   config: listen, log, options, channel (what is handled is published there, too)

declare(strict_types=1);

require __DIR__ . '/common.php';

$config = config();
$log = fopen($config['log'], 'a');
stream_set_write_buffer($log, 0);
$server = new WsServer($config['listen'], $config['options'] ?? []);
$channel = $config['channel'] ?? null;
if ($channel !== null) {
    $server->onOpen(static fn (WsConnection $c) => $c->subscribe($channel));
}
$server->onMessage(static function (WsConnection $c, string $data, bool $binary, WsMessage $m) use ($log, $server, $channel): void {
    [$client, $life, $number] = explode(' ', $data, 4);
    fwrite($log, "$client $life $number $m->id\n");
    $c->send("$life $number");
    if ($channel !== null) {
        $server->publish($channel, "$client $life $number");
    }
});
$server->start();
say('listening', ['address' => $server->address()]);
$server->run();
