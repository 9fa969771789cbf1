--TEST--
onAuth: claims, the owner of a session, refusals, fresh credentials in band
--FILE--
<?php
require __DIR__ . '/../inc/lifeline.php';
$server = serve([
    'auth' => function (WsRequest $r, ?string $token, ?WsSession $s) {
        echo "auth ", var_export($token, true), ' ', $s ? 'with session' : 'without', "\n";
        return match ($token) {
            'ann' => ['user' => 'ann', 'role' => 'admin'],
            'bob' => ['sub' => 7, 'name' => 'bob'],
            'guest' => [],
            'banned' => throw new WsReject('go away', 4503),
            'broken' => throw new DomainException('no database'),
            'odd' => 'yes',
            'nobody' => ['user' => ''],
            default => false,
        };
    },
    'open' => function ($c) use (&$conn) {
        $conn = $c;
        echo 'open ', json_encode([$c->user, $c->session->user, $c->session->claims]), "\n";
    },
    'close' => fn ($c, $code) => print("close $code\n"),
    'error' => fn ($e, $c) => print(get_class($e) . ": {$e->getMessage()}\n"),
]);
$ann = LifelinePeer::open($server, 'ann', ['auth' => 'ann']);
var_dump(count($server->connectionsOf('ann')), $server->isOnline('ann'));
$bob = LifelinePeer::open($server, 'bob', ['auth' => 'bob']);
foreach ([null, 'wrong', 'banned', 'broken', 'odd', 'nobody'] as $token) {
    $peer = new LifelinePeer($server, 'other');
    $peer->hello($token === null ? [] : ['auth' => $token]);
    echo $peer->read(), "\n";
}
echo "- fresh ones in band\n";
$ann->send('T {"auth":"ann"}');
$ann->send('I 1');
$ann->expect('O 1');
$ann->send('T {"auth":"bob"}');
echo $ann->read(), "\n";
$bob->send('T {"auth":"expired"}');
echo $bob->read(), "\n";
pump($server, fn () => count($server) === 0);
echo "- back with a token that has expired meanwhile, then with a good one\n";
$again = LifelinePeer::resume($server, $bob, more: ['auth' => 'expired']);
echo $again->read(), "\n";
$again = LifelinePeer::resume($server, $bob, more: ['auth' => 'bob']);
var_dump($again->welcome()['resumed']);
$again->expect('R 0');
echo "- another's session\n";
$thief = LifelinePeer::resume($server, $ann, more: ['auth' => 'guest']);
echo json_encode(array_intersect_key($thief->welcome(), ['resumed' => 1, 'why' => 1])), "\n";
$thief->expect('R 0');
echo json_encode([$conn->user, $conn->session->user]), "\n";
?>
--EXPECT--
auth 'ann' without
open ["ann","ann",{"user":"ann","role":"admin"}]
int(1)
bool(true)
auth 'bob' without
open ["7","7",{"sub":7,"name":"bob"}]
auth NULL without
close 4500 unauthorized
auth 'wrong' without
close 4500 unauthorized
auth 'banned' without
close 4503 go away
auth 'broken' without
DomainException: no database
close 1011 internal error
auth 'odd' without
TypeError: onAuth must return an array or false, string returned
close 1011 internal error
auth 'nobody' without
TypeError: onAuth: 'user' (or 'sub') must be a non-empty string of UTF-8 or an int
close 1011 internal error
- fresh ones in band
auth 'ann' with session
auth 'bob' with session
close 4500 T: the token is of another user than the session
auth 'expired' with session
close 4003 token expired
close 4500
close 4003
- back with a token that has expired meanwhile, then with a good one
auth 'expired' with session
close 4003 token expired
auth 'bob' with session
open ["7","7",{"sub":7,"name":"bob"}]
bool(true)
- another's session
auth 'guest' with session
open [null,null,[]]
{"resumed":false,"why":"unknown"}
[null,null]
