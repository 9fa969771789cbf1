--TEST--
Served by Swoole's event loop
--EXTENSIONS--
lifeline
pcntl
swoole
--FILE--
<?php
require __DIR__ . '/autoload.inc';
[$server, $client] = conversation();
Lifeline\Loop\Swoole::attach($client);
Swoole\Event::wait();
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
