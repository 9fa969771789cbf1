--TEST--
Arguments beyond those that the callable declares are not built
--FILE--
<?php
require __DIR__ . '/../inc/ws.php';
$server = serve(['message' => function () use (&$n) { $n = func_num_args(); }]);
$peer = Peer::open($server);
foreach ([fn () => $n = func_num_args(), function ($c) use (&$n) { $n = func_num_args(); }, function ($c, $d) use (&$n) { $n = func_num_args(); },
    function (...$all) use (&$n) { $n = count($all); }, new class($n) { public function __construct(public &$n) {} public function __invoke($a, $b, $c) { $this->n = func_num_args(); } },
    [new class($n) { public function __construct(public &$n) {} public function __call($name, $arguments) { $this->n = count($arguments); } }, 'magic']] as $i => $callback) {
    $n = null;
    if ($i === 0) { $callback = function () use (&$n) { $n = func_num_args(); }; }
    $server->onMessage($callback);
    $peer->text('x');
    pump($server, function () use (&$n) { return $n !== null; });
    echo $n, ' ';
}
?>
--EXPECT--
0 1 2 4 3 4
