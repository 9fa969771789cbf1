--TEST--
Running out of memory in a callback is a fatal error like any other
--SKIPIF--
<?php if (getenv('USE_ZEND_ALLOC') === '0') die('skip without Zend\'s allocator nothing holds memory_limit'); ?>
--FILE--
<?php
require __DIR__ . '/../inc/ws.php';
[$status, $output] = php(<<<'CODE'
register_shutdown_function(function () { echo "shutdown\n"; });
$server = serve(['message' => function ($c, $data) { handle($c, $data); }, 'close' => function ($c, $code) { echo "onClose $code\n"; }]);
$peer = Peer::open($server);
$peer->text('go');

function handle($c, $data) { $all = []; while (true) { $all[] = str_repeat('x', 100000); } }
$server->run();
CODE, ['memory_limit' => '16M']);
echo $output, "status $status\n";
?>
--EXPECTF--
Fatal error: Allowed memory size of 16777216 bytes exhausted%s in FILE on line %d
shutdown
status 255
