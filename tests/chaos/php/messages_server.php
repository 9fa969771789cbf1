<?php
// Handles what messages_client.php sends, writes it down and answers it.
//   config: listen, log, options

declare(strict_types=1);

require __DIR__ . '/common.php';

$config = config();
$log = fopen($config['log'], 'a');
stream_set_write_buffer($log, 0);
$server = new WsServer($config['listen'], $config['options'] ?? []);
$server->onMessage(static function (WsConnection $c, string $data, bool $binary, WsMessage $m) use ($log): void {
    [$client, $life, $number] = explode(' ', $data, 4);
    fwrite($log, "$client $life $number $m->id\n");
    $c->send("$life $number");
});
$server->start();
say('listening', ['address' => $server->address()]);
$server->run();
