--TEST--
A child that lives on does not keep the peers of its parent from seeing their end
--FILE--
<?php
require __DIR__ . '/../inc/ws.php';
$server = serve();
$peer = Peer::open($server);
[$mine, $childs] = stream_socket_pair(STREAM_PF_UNIX, STREAM_SOCK_STREAM, 0);
$child = pcntl_fork();
if ($child === 0) {
    // Holds what it has inherited until the parent has ended.
    fclose($mine);
    fread($childs, 1);
    posix_kill(getmypid(), SIGKILL);
}
fclose($childs);
$peer->close(1000);
echo $peer->next($server), ', ', $peer->next($server), "\n";
fclose($mine);
pcntl_waitpid($child, $status);
?>
--EXPECT--
close 1000, end
