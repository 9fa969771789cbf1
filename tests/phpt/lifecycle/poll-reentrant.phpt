--TEST--
poll() in a callback serves other connections and not the one whose handler runs
--FILE--
<?php
require __DIR__ . '/../inc/ws.php';
$log = new ArrayObject;
$server = serve(['message' => function ($c, $data) use (&$server, $log) {
    $log[] = "in $c->id:$data";
    if ($data === 'nest') {
        pump($server, fn () => in_array('in 2:other', (array) $log) && $c->stats()['messagesIn'] === 2);
        for ($i = 0; $i < 3; $i++) { $server->poll(0.01); }
    }
    $log[] = "out $c->id:$data";
}]);
$one = Peer::open($server);
$two = Peer::open($server);
$one->text('nest');
$one->text('later');
$two->text('other');
pump($server, fn () => in_array('out 1:later', (array) $log));
echo implode("\n", array_filter((array) $log, fn ($line) => str_contains($line, '1:'))), "\n";
var_dump(array_search('out 2:other', (array) $log) < array_search('out 1:nest', (array) $log));
?>
--EXPECT--
in 1:nest
out 1:nest
in 1:later
out 1:later
bool(true)
