--TEST--
Several listeners: TCP, IPv6 and a Unix socket
--FILE--
<?php
require __DIR__ . '/../inc/ws.php';
$path = sys_get_temp_dir() . '/lifeline-' . getmypid() . '.sock';
$server = new WsServer(['ws://127.0.0.1:0', 'ws://[::1]:0', "unix://$path"]);
$server->onMessage(fn ($c, $d) => $c->send("$c->remoteAddress $d"));
$server->start();
var_dump(preg_match('~^ws://127\.0\.0\.1:\d+$~', $server->address()));
[$tcp, $six, $local] = $server->stats()['addresses'];
var_dump($tcp === $server->address(), preg_match('~^ws://\[::1\]:[1-9]\d*$~', $six), $local === "unix://$path");
$peer = Peer::open($server);
$peer->text('tcp');
echo preg_replace('~:\d+~', ':PORT', $peer->next($server)), "\n";
$unix = new Peer("unix://$path");
$unix->head($server);
$unix->text('unix');
echo $unix->next($server), "\n";
$server->stop(0);
$server->run();
var_dump(file_exists($path));
?>
--EXPECT--
int(1)
bool(true)
int(1)
bool(true)
text 127.0.0.1:PORT tcp
text unix: unix
bool(false)
