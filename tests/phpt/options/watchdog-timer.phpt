--TEST--
watchdog: a timer that holds PHP up is noticed, also where no event waits
--EXTENSIONS--
lifeline
--FILE--
<?php
require __DIR__ . '/../inc/ws.php';
/** The engine answers while this script waits. */
function lag(string $admin): float
{
    return json_decode(file_get_contents("$admin/status.json"), true)['stats']['watchdog']['lag'];
}
$server = serve([], ['admin' => '127.0.0.1:0', 'watchdog' => ['lag' => 600]]);
$admin = $server->stats()['admin'];
foreach (['poll' => fn () => $server->poll(0.05), 'stream' => function () use ($server) {
    $read = [$server->stream()];
    $none = null;
    stream_select($read, $none, $none, 0, 50_000);
    $server->tick();
}] as $way => $once) {
    $seen = null;
    $server->after(0.01, function () use ($admin, &$seen): void {
        meanwhile(function () use ($admin, &$seen) {
            return ($seen = lag($admin)) > 0.1;
        }, 'the lag');
    });
    while ($seen === null) {
        $once();
    }
    $once();
    echo "$way: ", $seen > 0.1 ? 'noticed' : 'missed', ', then ', lag($admin) === 0.0 ? 'idle' : 'busy', "\n";
}
?>
--EXPECT--
poll: noticed, then idle
stream: noticed, then idle
