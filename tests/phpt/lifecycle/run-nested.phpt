--TEST--
One run() serves every server; run() returns when its own has stopped
--FILE--
<?php
require __DIR__ . '/../inc/ws.php';
$a = serve(['message' => fn ($c, $data) => $c->send("a $data")]);
$b = serve(['message' => function ($c, $data) use ($a, &$b) {
    $c->send("b $data");
    if ($data === 'stop b') { $b->stop(0); }
    if ($data === 'stop a') { $a->stop(0); }
}]);
$pa = Peer::open($a);
$pb = Peer::open($b);
$pa->text('1');
$pb->text('2');
echo $pa->next($b), "\n", $pb->next($a), "\n";
$pb->text('stop a');
$a->run();
echo $pa->next(), "\n", $pb->next(), "\n";
$pb->text('stop b');
$b->run();
echo $pb->next(), "\n", $pb->next(), "\n";
?>
--EXPECTF--
text a 1
text b 2
close 1001%S
text b stop a
text b stop b
close 1001%S
