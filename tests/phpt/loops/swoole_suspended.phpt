--TEST--
A handler that suspends in a Swoole coroutine stops its own connection only
--EXTENSIONS--
lifeline
pcntl
swoole
--FILE--
<?php
require __DIR__ . '/autoload.inc';
$detach = null;
[$server, $a, $b] = suspended(fn () => Swoole\Coroutine::sleep(0.5), function () use (&$detach): void {
    $detach();
});
$detach = Lifeline\Loop\Swoole::attach($server);
Swoole\Event::wait();
echo "done\n";
?>
--EXPECT--
a: slow begins
b: 1 begins
b: 1 ends
b: 2 begins
b: 2 ends
a: slow ends
a: next begins
a: next ends
done
