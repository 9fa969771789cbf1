<?php
// Answers what mixed_client.php sends and counts it; echoes to everybody else.
//   config: listen (one server for each), options
// Of each process of a client it expects 1, 2, 3, …; what came last of each is told on the order `totals`, a text message
// of a plain connection that begins with the character 1.

declare(strict_types=1);

require dirname(__DIR__, 2) . '/chaos/php/common.php';

$config = config();
$handled = [];
$serve = static function (string $listen) use ($config, &$handled): WsServer {
    $server = new WsServer($listen, array_diff_key($config['options'], str_starts_with($listen, 'wss') ? [] : ['tls' => 0]));
    $server->onSubscribe(static fn (WsConnection $c, string $channel): bool => in_array($channel, ['news', 'board'], true));
    $server->onOpen(static function (WsConnection $c, WsRequest $r): void {
        if (isset($r->query['news'])) {
            $c->subscribe('news');
        }
    });
    $server->onMessage(static function (WsConnection $c, string $data, bool $binary, WsMessage $m) use ($server, &$handled): void {
        if ($data === "\x01totals") {
            say('totals', ['handled' => (object) $handled, 'compressed' => $server->stats()['compression']['messages']]);
            return;
        }
        if ($c->session === null) {
            $c->send($data, $binary);
            return;
        }
        [$client, $life, $number, $at] = explode(' ', $data, 5);
        $before = $handled["$client $life"] ?? 0;
        if ((int) $number !== $before + 1) {
            say('order', ['client' => $client, 'life' => $life, 'number' => $number, 'before' => $before]);
        }
        $handled["$client $life"] = (int) $number;
        $c->send("$life $number $at");
        if ($number % 10 === 0) {
            $server->publish('news', "$client $life $number");
        }
    });
    $server->onError(static fn (mixed $of, Throwable $e) => say('error', ['class' => $e::class, 'message' => $e->getMessage()]));
    $server->start();
    $server->document('board');
    return $server;
};
$servers = array_map($serve, $config['listen']);
say('listening', ['addresses' => array_map(static fn (WsServer $server): string => $server->address(), $servers)]);
$servers[0]->run();
