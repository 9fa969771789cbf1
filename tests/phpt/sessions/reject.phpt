--TEST--
Refused messages: WsReject and reject(), for good and for now; poison after redelivery.limit; failures close with 1011
--FILE--
<?php
require __DIR__ . '/../inc/lifeline.php';
$server = serve([
    'open' => fn () => print("open\n"),
    'message' => function ($c, $data, $binary, WsMessage $m) use (&$fine) {
        echo "message $data $m->sequence\n";
        match ($data) {
            'bad' => throw new WsReject('no such product', 42),
            'later' => $fine ? null : throw new WsReject('busy', permanent: false),
            'mine' => $m->reject('mine', -7),
            'poison' => throw new DomainException('a bug'),
            default => null,
        };
    },
    'error' => fn ($e, $c) => print(get_class($e) . ": {$e->getMessage()} " . ($c ? 'with' : 'without') . " connection\n"),
    'close' => fn ($c, $code) => print("close $code\n"),
], ['redelivery' => ['limit' => 2]]);
$peer = LifelinePeer::open($server);
$peer->send("P 1\nbad");
echo $peer->read(), "\n";
$refusal = function ($peer) {
    do { $frame = $peer->read(); } while (!str_starts_with($frame, 'N'));
    return "$frame\n";
};
$peer->send("P 2\nlater");
echo $refusal($peer);
$fine = true;
$peer->send("P 2\nlater");
$peer->until('A 2');
$peer->send("P 3\nmine");
echo $refusal($peer);
echo "- a bug\n";
$peer->send("P 4\npoison");
$peer->send("P 5\nbehind");
while (!str_starts_with($frame = $peer->read(), 'close')) {}
echo $frame, "\n";
$again = LifelinePeer::resume($server, $peer, 0, 4, 6);
var_dump($again->welcome()['q']);
$again->expect('R 0');
$again->send("P 4\npoison");
$again->send("P 5\nbehind");
echo $refusal($again);
$again->until('A 5');
var_dump($server->stats()['sessions']['rejected']);
echo "- on a plain connection\n";
$plain = Peer::open($server);
$plain->text('bad');
$plain->text('mine');
$plain->text('fine');
pump($server, fn () => $server->stats()['messages']['in'] >= 10);
$plain->text('poison');
echo $plain->next($server), "\n";
echo "- the exception\n";
try { throw new WsReject('x', 5); } catch (WsException $e) {
    var_dump($e->getMessage(), $e->getCode(), $e->permanent, $e instanceof RuntimeException, basename($e->getFile(), '.php'));
}
var_dump((new WsReject('y', permanent: false))->permanent);
foreach ([fn () => new WsReject, fn () => $e->permanent = false] as $wrong) {
    try { $wrong(); } catch (Error $wrong) { echo get_class($wrong), ': ', $wrong->getMessage(), "\n"; }
}
?>
--EXPECT--
open
message bad 1
N {"q":1,"code":42,"reason":"no such product","permanent":true}
message later 2
N {"q":2,"code":0,"reason":"busy","permanent":false}
message later 2
message mine 3
N {"q":3,"code":-7,"reason":"mine","permanent":true}
- a bug
message poison 4
DomainException: a bug with connection
close 1011 internal error
close 1011
open
int(3)
message poison 4
DomainException: a bug with connection
message behind 5
N {"q":4,"code":0,"reason":"the handler failed 2 times","permanent":true}
int(3)
- on a plain connection
open
message bad 
message mine 
message fine 
message poison 
DomainException: a bug with connection
close 1011
- the exception
string(1) "x"
int(5)
bool(true)
bool(true)
string(6) "reject"
bool(false)
ArgumentCountError: WsReject::__construct() expects at least 1 argument, 0 given
Error: Cannot modify readonly property WsReject::$permanent
