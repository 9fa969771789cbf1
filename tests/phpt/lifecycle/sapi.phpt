--TEST--
Under a server API that serves requests a WsServer throws, and a WsClient works within the request
--SKIPIF--
<?php
require __DIR__ . '/../inc/ws.php';
if (!cgi()) { die('skip no php-cgi of this PHP version'); }
?>
--FILE--
<?php
require __DIR__ . '/../inc/ws.php';
$script = __DIR__ . '/sapi-request.php';
file_put_contents($script, <<<'CODE'
<?php
try { new WsServer('ws://127.0.0.1:0'); } catch (Error $e) { echo $e->getMessage(), "\n"; }
$client = new WsClient('ws://127.0.0.1:1/');
$client->connect();
var_dump($client->state() !== WsState::Connected);
CODE);
$process = proc_open([cgi(), '-n', '-q', '-d', 'extension=' . extension_path(), $script], [1 => ['pipe', 'w'], 2 => ['redirect', 1]], $pipes,
    null, ['SCRIPT_FILENAME' => $script, 'REQUEST_METHOD' => 'GET', 'REDIRECT_STATUS' => '1']);
echo explode("\r\n\r\n", stream_get_contents($pipes[1]), 2)[1];
var_dump(proc_close($process));
?>
--CLEAN--
<?php @unlink(__DIR__ . '/sapi-request.php'); ?>
--EXPECT--
a WsServer lives longer than a request: run it with the command line PHP, not under cgi-fcgi
bool(true)
int(0)
