--TEST--
kill -9 in the middle of sends: all that send() has returned for arrives, in order
--EXTENSIONS--
lifeline
--FILE--
<?php
require __DIR__ . '/../inc/client.php';
require __DIR__ . '/../inc/durable.php';
$code = <<<'PHP'
    [, $url, $directory, $durability, $protocol] = $argv;
    $client = new WsClient($url, ['protocols' => $protocol ? [$protocol] : [], 'outbox' => ['path' => $directory, 'durability' => $durability, 'limit' => 1000000], 'reconnect' => ['base' => 0.01, 'max' => 0.02, 'floor' => 0.0]]);
    $client->connect();
    for ($i = 1; ; $i++) {
        $n = $i % 5 ? $client->send("$i") : $client->sendMany(["$i", (string) ++$i]);
        fwrite(STDOUT, "$i\n");
        if ($i % 7 === 0) { $client->poll(0); }
    }
    PHP;
$server = collector($got);
foreach ([['always', ''], ['interval', ''], ['always', 'lifeline.v1'], ['interval', 'lifeline.v1']] as [$durability, $protocol]) {
    $directory = outbox_directory();
    $sum = 0;
    for ($round = 0; $round < 6; $round++) {
        $got = [];
        // Half of them have a server.
        $url = $round % 2 ? $server->address() : 'ws://127.0.0.1:1';
        [$process, $output] = other($code, [$url, $directory, $durability, $protocol]);
        stream_set_blocking($output, false);
        $last = 0;
        $lines = '';
        $until = 20 + 40 * $round;
        until($server, function () use ($output, &$lines, $until, &$last) {
            $lines .= fread($output, 65536);
            preg_match_all('/^(\d+)\n/m', $lines, $matches);
            $last = (int) end($matches[1]);
            return $last >= $until || preg_match('/[a-z]/', $lines);
        });
        proc_terminate($process, 9);
        while (proc_get_status($process)['running']) { $server->poll(0.005); }
        $lines .= stream_get_contents($output);
        proc_close($process);
        if (preg_match('/[a-z].*/', $lines, $trouble)) { die($trouble[0]); }
        preg_match_all('/^(\d+)\n/m', $lines, $matches);
        $last = (int) end($matches[1]);

        $client = new WsClient($server->address(), ['protocols' => $protocol ? [$protocol] : [], 'outbox' => ['path' => $directory, 'durability' => $durability]]);
        $client->connect();
        if (!$client->flush(30)) { echo "not flushed\n"; }
        arrived($server, $got, $last);
        $client->close();
        $client->run();
        $server->poll(0);
        $unique = array_values(array_unique($got));
        // One more may have been on its way when the process was killed, or two of sendMany().
        $more = count($unique) - $last;
        if ($unique !== array_map(strval(...), range(1, count($unique))) || $more < 0 || $more > 2) {
            echo "round $round: $last returned, ", count($unique), " arrived: ", implode(' ', array_slice($unique, 0, 50)), "\n";
        }
        // A plain peer may get again what was written when the process died.
        if ($protocol && count($got) !== count($unique)) { echo "round $round: ", count($got) - count($unique), " came twice\n"; }
        $sum += $last;
    }
    echo "$durability $protocol: ", $sum >= 720 ? 'done' : $sum, "\n";
}
?>
--EXPECT--
always : done
interval : done
always lifeline.v1: done
interval lifeline.v1: done
