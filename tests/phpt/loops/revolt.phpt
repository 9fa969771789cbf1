--TEST--
Served by a Revolt loop
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
guard();
[$server, $client] = conversation();
Lifeline\Loop\Revolt::attach($client);
Revolt\EventLoop::run();
echo "done\n";
?>
--EXPECT--
open
echo 1
echo 2
echo 3
timer
closed
done
