--TEST--
A fiber destroyed while its handler is suspended: finally runs, the connection goes on
--FILE--
<?php
require __DIR__ . '/../inc/ws.php';
$server = serve(['message' => function ($c, $data) {
    if ($data === 'wait') { try { Fiber::suspend(); } finally { echo "finally\n"; } }
    $c->send($data);
}]);
$peer = Peer::open($server);
$peer->text('wait');
$fiber = new Fiber(fn () => $server->poll(LIMIT));
$fiber->start();
$fiber = null;
gc_collect_cycles();
$peer->text('alive');
echo $peer->next($server), "\n";
// And one that is never resumed does not hold up the end of the script.
$peer->text('wait');
$fiber = new Fiber(fn () => $server->poll(LIMIT));
$fiber->start();
echo "end\n";
?>
--EXPECT--
finally
text alive
end
finally
