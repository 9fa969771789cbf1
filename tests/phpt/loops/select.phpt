--TEST--
Served by a plain stream_select loop
--EXTENSIONS--
lifeline
pcntl
--FILE--
<?php
require __DIR__ . '/autoload.inc';
guard();
[$server, $client] = conversation();
[$left, $right] = stream_socket_pair(STREAM_PF_UNIX, STREAM_SOCK_STREAM, 0);
fwrite($left, "hello\n");
Lifeline\Loop\Select::run($client, [[$right, function ($stream): void {
    echo 'also read: ', fgets($stream);
}]]);
echo "done\n";
?>
--EXPECTF--
also read: hello
open
echo 1
echo 2
echo 3
timer
closed
done
