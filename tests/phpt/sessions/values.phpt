--TEST--
WsSession: values of JSON with a version, compare-and-set, update, array access
--FILE--
<?php
require __DIR__ . '/../inc/lifeline.php';
$server = serve(['open' => function ($c) use (&$s) { $s = $c->session; }]);
$peer = LifelinePeer::open($server);
var_dump($s->get('a'), $s->get('a', 'none'), $s->version);
var_dump($s->set('a', 1), $s->set('a', 2, 0), $s->set('a', 2, 1), $s->set('a', 3, -1), $s->get('a'), $s->version);
$s->set('b', ['x' => 1.0, 'y' => [true, null, "\u{20AC}/"]]);
var_dump($s->get('b'));
var_dump(isset($s['a']), isset($s['c']), $s['c'], $s['a']);
$s['c'] = null;
$s[7] = 'seven';
var_dump(isset($s['c']), $s->get('c', 'none'), $s['7']);
unset($s['b'], $s['c'], $s['7']);
$s->delete('nothing');
var_dump($s->all(), $s->version);
$calls = 0;
var_dump($s->update(function (array $all) use ($s, &$calls) {
    if (++$calls === 1) {
        $s['a'] = 10;
    }
    return ['sum' => $all['a'] + 1];
}), $calls, $s->version);
foreach ([fn () => $s->set('x', NAN), fn () => $s->set('x', "\xff"), fn () => $s->set("\xff", 1), fn () => $s->update(fn () => 1),
    fn () => $s->update(fn () => throw new DomainException('mine')), fn () => $s[[]], fn () => $s[] = 1, fn () => $s->version = 3,
    fn () => new WsSession, fn () => clone $s, fn () => $s->send("\xff")] as $wrong) {
    try { $wrong(); echo "worked\n"; } catch (Throwable $e) { echo get_class($e), ': ', $e->getMessage(), "\n"; }
}
class Late implements JsonSerializable { function jsonSerialize(): mixed { throw new LogicException('not now'); } }
try { $s['late'] = new Late; } catch (LogicException $e) { echo $e->getMessage(), "\n"; }
var_dump($s->all());
?>
--EXPECT--
NULL
string(4) "none"
int(0)
bool(true)
bool(false)
bool(true)
bool(false)
int(2)
int(2)
array(2) {
  ["x"]=>
  float(1)
  ["y"]=>
  array(3) {
    [0]=>
    bool(true)
    [1]=>
    NULL
    [2]=>
    string(4) "€/"
  }
}
bool(true)
bool(false)
NULL
int(2)
bool(false)
NULL
string(5) "seven"
array(1) {
  ["a"]=>
  int(2)
}
int(8)
array(1) {
  ["sum"]=>
  int(11)
}
int(2)
int(10)
ValueError: the value cannot be written as JSON (a resource, invalid UTF-8, INF, NAN, or too deep)
ValueError: the value cannot be written as JSON (a resource, invalid UTF-8, INF, NAN, or too deep)
ValueError: WsSession::set(): Argument #1 ($k) must be valid UTF-8
TypeError: the callback of WsSession::update() must return an array, int returned
DomainException: mine
TypeError: a WsSession's values have names, array given
TypeError: a WsSession's values have names, null given
Error: Cannot modify readonly property WsSession::$version
Error: Call to private WsSession::__construct() from global scope
Error: Trying to clone an uncloneable object of class WsSession
ValueError: WsSession::send(): Argument #1 ($data) must be valid UTF-8 unless $binary is true
not now
array(1) {
  ["sum"]=>
  int(11)
}
