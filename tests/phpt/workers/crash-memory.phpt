--TEST--
workers: one that runs out of memory costs no connection
--EXTENSIONS--
lifeline
--SKIPIF--
<?php
if (getenv('USE_ZEND_ALLOC') === '0') die('skip memory_limit needs the Zend allocator');
?>
--FILE--
<?php
require __DIR__ . '/../inc/workers.php';
$site = new Site(<<<'CODE'
$server = site();
$server->onOpen(fn ($c) => $c->resumed && $c->send('again'));
$server->onMessage(function ($c, $data) use ($server) {
    $c->send($data === 'eat' ? str_repeat('x', 100 << 20) : json_encode($server->stats()['workers']['lost']));
});
run_site($server);
CODE, ['memory_limit' => '32M']);
$peer = $site->peer();
$peer->text('eat');
echo $peer->next(), "\n", $site->logged('~Allowed memory size~') !== '' ? "said\n" : '', $site->ask($peer, 'lost'), "\n";
?>
--EXPECT--
text again
said
1
