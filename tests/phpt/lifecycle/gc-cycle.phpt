--TEST--
A cycle through callbacks, timers, the logger and a connection's data is collected
--FILE--
<?php
require __DIR__ . '/../inc/ws.php';
function make(bool $started) {
    $log = new class { public $server; public function log($level, $message, $context) {} };
    $server = new WsServer('ws://127.0.0.1:0', ['logger' => $log, 'watchdog' => ['lag' => 600]]);
    $log->server = $server;
    $server->onMessage(fn () => $server)->onOpen(function ($c) use ($server) { $c->data = [$server, $c]; });
    $server->after(1000, fn () => $server);
    if ($started) {
        $server->start();
        $peer = Peer::open($server);
    }
    return WeakReference::create($server);
}
$plain = make(false);
$started = make(true);
gc_collect_cycles();
var_dump($plain->get(), $started->get());
$before = null;
for ($i = 0; $i < 3; $i++) {
    for ($j = 0; $j < 5000; $j++) { make(false); }
    gc_collect_cycles();
    $before ??= memory_get_usage();
}
var_dump(memory_get_usage() - $before < 100000);
?>
--EXPECT--
NULL
NULL
bool(true)
