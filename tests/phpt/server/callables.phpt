--TEST--
All kinds of callables: functions, methods, static ones, private ones from inside, first-class, __callStatic
--FILE--
<?php
require __DIR__ . '/../inc/ws.php';
function plain($c, $d) { $c->send("plain $d"); }
class Handlers {
    public function method($c, $d) { $c->send("method $d"); }
    public static function fixed($c, $d) { $c->send("fixed $d"); }
    private function hidden($c, $d) { $c->send("hidden $d"); }
    public function callback(): array { return [$this, 'hidden']; }
    public function attach(WsServer $s) { $s->onMessage([$this, 'hidden']); }
    public static function __callStatic($name, $arguments) { $arguments[0]->send("$name $arguments[1]"); }
}
$server = serve();
$peer = Peer::open($server);
$handlers = new Handlers;
foreach (['plain', [$handlers, 'method'], ['Handlers', 'fixed'], 'Handlers::fixed', plain(...), $handlers->method(...), ['Handlers', 'magic'], null] as $callback) {
    $callback === null ? $handlers->attach($server) : $server->onMessage($callback);
    $peer->text('x');
    echo $peer->next($server), "\n";
}
try { $server->onMessage([$handlers, 'hidden']); } catch (TypeError $e) { echo $e->getMessage(), "\n"; }
?>
--EXPECT--
text plain x
text method x
text fixed x
text fixed x
text plain x
text method x
text magic x
text hidden x
WsServer::onMessage(): Argument #1 ($callback) must be a valid callback, cannot access private method Handlers::hidden()
