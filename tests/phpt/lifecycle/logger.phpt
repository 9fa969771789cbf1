--TEST--
Log records go to the logger, an object or a callable; an exception of the logger is reported
--FILE--
<?php
require __DIR__ . '/../inc/ws.php';
$records = [];
$psr = new class($records) { public function __construct(private array &$records) {} public function log($level, string|Stringable $message, array $context = []) { $this->records[] = $level; } };
$server = new WsServer('ws://127.0.0.1:0', ['logger' => $psr, 'logLevel' => 'debug']);
$server->start();
$peer = Peer::open($server);
[$c] = $server->connections();
$c->trace(true);
$peer->text('traced');
pump($server, function () use (&$records) { return $records !== []; }, 'a record');
var_dump(array_unique($records) === array_filter(array_unique($records), fn ($l) => in_array($l, ['debug', 'info', 'notice', 'warning', 'error'])));
$server = new WsServer('ws://127.0.0.1:0', ['logger' => fn ($level, $message, $context) => throw new Exception('logger failed'), 'logLevel' => 'debug']);
$server->onError(function (Throwable $e) use (&$failed) { $failed = $e->getMessage(); });
$server->start();
$peer = Peer::open($server);
[$c] = $server->connections();
$c->trace(true);
$peer->text('traced');
pump($server, function () use (&$failed) { return $failed !== null; }, 'the failure');
echo $failed, "\n";
?>
--EXPECT--
bool(true)
logger failed
