--TEST--
Objects and memory of connections that have ended are freed
--FILE--
<?php
require __DIR__ . '/../inc/ws.php';
$server = serve(['open' => function ($c) { $c->data = str_repeat('x', 10000); }]);
$rounds = function (int $n) use ($server) {
    for ($i = 0; $i < $n; $i++) {
        $peer = Peer::open($server);
        $peer->cut();
        pump($server, fn () => count($server) === 0);
    }
};
$rounds(20);
gc_collect_cycles();
$before = memory_get_usage();
$rounds(100);
gc_collect_cycles();
var_dump(memory_get_usage() - $before < 50000);
?>
--EXPECT--
bool(true)
