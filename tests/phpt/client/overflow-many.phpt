--TEST--
Who sends in a loop and never polls does not fill memory with what was dropped; each is reported
--EXTENSIONS--
lifeline
--FILE--
<?php
require __DIR__ . '/../inc/client.php';
$resident = fn () => (int) explode(' ', file_get_contents('/proc/self/statm'))[1] * 4096;
foreach (['dropOldest', 'dropNewest'] as $policy) {
    $client = new WsClient('ws://127.0.0.1:1', ['outbox' => ['limit' => 100, 'overflow' => $policy]]);
    $dropped = 0;
    $client->onOverflow(function () use (&$dropped) { $dropped++; });
    $data = str_repeat('x', 1024);
    for ($i = 0; $i < 10000; $i++) { $client->send($data); }
    $before = $resident();
    for ($i = 0; $i < 100000; $i++) { $client->send($data); }
    $grown = $resident() - $before;
    var_dump($grown < 30e6 ?: $grown);
    while ($client->poll() > 0);
    var_dump($dropped, $client->unacknowledged());
    $client->close();
}
?>
--EXPECT--
bool(true)
int(109900)
int(100)
bool(true)
int(109900)
int(100)
