--TEST--
A message is acknowledged when its suspended handler has ended; the connection stays in order; defer() and its end
--FILE--
<?php
require __DIR__ . '/../inc/lifeline.php';
$fibers = [];
$server = serve([
    'message' => function ($c, $data, $binary, WsMessage $m) use (&$fibers, &$deferred) {
        echo "begin $data\n";
        if ($data === 'deferred') {
            $m->defer();
            $deferred = $m;
            return;
        }
        if (Fiber::getCurrent()) {
            Fiber::suspend();
        }
        echo "end $data\n";
    },
    'error' => fn ($e) => print("{$e->getMessage()}\n"),
    'close' => fn ($c, $code) => print("close $code\n"),
]);
$peer = LifelinePeer::open($server);
$peer->send("P 1\none");
$peer->send("P 2\ntwo");
$fiber = new Fiber(fn () => pump($server, fn () => false));
$fiber->start();
// The handler is suspended inside of the dispatching fiber.
$peer->send('I 1');
$peer->expect('O 1');
echo "nothing is acknowledged\n";
$rest = new Fiber(function () use ($fiber) { try { $fiber->resume(); } catch (RuntimeException) { } });
echo "resumed\n";
$rest->start();
$peer->expect('A 1');
?>
--EXPECT--
begin one
nothing is acknowledged
resumed
end one
begin two
