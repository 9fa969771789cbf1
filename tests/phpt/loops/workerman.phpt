--TEST--
Served by a Workerman event loop
--EXTENSIONS--
lifeline
pcntl
posix
--SKIPIF--
<?php
require __DIR__ . '/autoload.inc';
if (!class_exists(Workerman\Events\Select::class)) die('skip needs workerman/workerman');
?>
--FILE--
<?php
require __DIR__ . '/autoload.inc';
guard();
$loop = new Workerman\Events\Select();
[$server, $client] = conversation();
Lifeline\Loop\Workerman::attach($client, $loop);
$client->onStateChange(function (WsTransition $t) use ($loop): void {
    if ($t->to === WsState::Closed) {
        echo "closed\n";
        $loop->stop();
    }
});
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
