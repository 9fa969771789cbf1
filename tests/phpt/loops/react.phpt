--TEST--
Served by a ReactPHP loop
--EXTENSIONS--
lifeline
pcntl
--SKIPIF--
<?php
require __DIR__ . '/autoload.inc';
if (!class_exists(React\EventLoop\Loop::class)) die('skip needs react/event-loop');
?>
--FILE--
<?php
require __DIR__ . '/autoload.inc';
guard();
$loop = new React\EventLoop\StreamSelectLoop();
[$server, $client] = conversation();
Lifeline\Loop\ReactPhp::attach($client, $loop);
// Returns when nothing is watched any more: the closed client has detached.
$loop->run();
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
