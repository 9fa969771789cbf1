--TEST--
A client on outbox.path that is killed with -9: the next process goes on with its session, stream and channels without a gap
--EXTENSIONS--
lifeline
--FILE--
<?php
require __DIR__ . '/../../inc/client.php';
require __DIR__ . '/../../inc/durable.php';
$code = <<<'PHP'
    [, $url, $directory, $durability, $round] = $argv;
    $say = fn (string $text) => fwrite(STDOUT, "$text\n");
    $client = new WsClient($url, ['outbox' => ['path' => $directory, 'durability' => $durability], 'reconnect' => ['base' => 0.01, 'max' => 0.02, 'floor' => 0.0]]);
    $client->onOpen(fn (WsClient $c, bool $resumed) => $say('open ' . (int) $resumed));
    $client->onGap(fn (WsGap $g) => $say("gap '$g->channel' $g->from $g->why"));
    $client->onError(fn (Throwable $e) => $say('error ' . $e->getMessage()));
    // Much is waiting in the process when it dies.
    $client->onMessage(function (WsClient $c, string $data, bool $b, WsMessage $m) use ($say) {
        usleep(500);
        $say(($m->channel ?? 'stream') . " $data");
    });
    if (!$round) { $client->subscribe('news'); }
    $client->connect();
    $client->run();
    PHP;
$server = serve(['open' => function (WsConnection $c) use (&$client) { $client = $c; }, 'subscribe' => fn () => true]);
foreach (['always', 'interval'] as $durability) {
    $directory = outbox_directory();
    [$sent, $opens, $rounds, $heard] = [0, [], 8, ['stream' => [], 'news' => []]];
    for ($round = 0; $round < $rounds; $round++) {
        $client = null;
        [$process, $output] = other($code, [$server->address(), $directory, $durability, $round]);
        stream_set_blocking($output, false);
        $lines = '';
        $read = function () use ($output, &$lines) { return $lines .= fread($output, 65536); };
        until($server, function () use ($read, &$client) { return str_contains($read(), 'open') && $client && in_array('news', $client->channels(), true); }, 'the client');
        for ($i = 0; $i < 200; $i++) {
            $client->session->send((string) ++$sent);
            $server->publish('news', (string) $sent);
        }
        // The last one hears all.
        $last = $round === $rounds - 1 ? $sent : $sent - 150 + 13 * $round;
        $awaited = "/^stream $last\n.*^news $last\n|^news $last\n.*^stream $last\n/ms";
        until($server, fn () => preg_match($awaited, $read()), 'messages');
        proc_terminate($process, 9);
        while (proc_get_status($process)['running']) { $server->poll(0.002); }
        $lines .= stream_get_contents($output);
        proc_close($process);
        foreach (explode("\n", trim($lines)) as $line) {
            [$kind, $what] = explode(' ', $line, 2);
            match ($kind) {
                'open' => $opens[] = $what,
                'stream', 'news' => $heard[$kind][] = $what,
                default => print("round $round: $line\n"),
            };
        }
    }
    foreach ($heard as $kind => $all) {
        $unique = array_values(array_unique($all));
        if ($unique !== array_map(strval(...), range(1, $sent))) {
            echo "$kind: ", count($unique), " of $sent\n";
        }
    }
    // What was handled in the last moments before the end comes again.
    $twice = count($heard['stream']) - $sent;
    echo "$durability: ", implode($opens), ' ', $twice <= 100 ? 'few twice' : "$twice twice", "\n";
}
?>
--EXPECT--
always: 01111111 few twice
interval: 01111111 few twice
