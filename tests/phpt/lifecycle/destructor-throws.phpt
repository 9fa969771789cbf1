--TEST--
A destructor that throws when a callback's values are released is reported, and nothing is lost
--FILE--
<?php
require __DIR__ . '/../inc/ws.php';
class Late { public function __destruct() { throw new Exception('late'); } }
$server = serve(['message' => function ($c, $data) { $c->send($data); return $data === '1' ? new Late : null; },
    'error' => function (Throwable $e, $c) { echo get_class($e), ' ', $e->getMessage(), ' ', var_export($c, true), "\n"; }]);
$peer = Peer::open($server);
foreach (['1', '2', '3'] as $data) { $peer->text($data); }
meanwhile(fn () => $server->stats()['messages']['in'] === 3, 'the messages');
echo $peer->next($server), "\n", $peer->next($server), "\n", $peer->next($server), "\n";
$server->after(0, fn () => new Late);
$server->poll(1);
?>
--EXPECT--
Exception late NULL
text 1
text 2
text 3
Exception late NULL
