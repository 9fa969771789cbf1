--TEST--
A handler that suspends in a Revolt fiber stops its own connection only
--EXTENSIONS--
lifeline
pcntl
--SKIPIF--
<?php
require __DIR__ . '/autoload.inc';
if (!class_exists(Revolt\EventLoop::class)) die('skip needs revolt/event-loop');
?>
--FILE--
<?php
require __DIR__ . '/autoload.inc';
use Revolt\EventLoop;

guard();
$pause = function (): void {
    $suspension = EventLoop::getSuspension();
    EventLoop::delay(0.5, fn () => $suspension->resume());
    $suspension->suspend();
};
$detach = null;
[$server, $a, $b] = suspended($pause, function () use (&$detach): void {
    $detach();
});
$detach = Lifeline\Loop\Revolt::attach($server);
EventLoop::run();
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
