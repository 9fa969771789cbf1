--TEST--
onSnapshot: who has lost its place in a channel is told the state
--FILE--
<?php
require __DIR__ . '/../inc/lifeline.php';
$asked = 0;
$server = serve([
    'subscribe' => fn () => true,
    'snapshot' => function (string $channel) use (&$asked) {
        $asked++;
        return match ($channel) { 'bin' => "\xff", 'odd' => null, 'throws' => throw new DomainException('no'), default => "state of $channel" };
    },
    'error' => fn ($e) => print(get_class($e) . ": {$e->getMessage()}\n"),
], ['resume' => ['count' => 1, 'bytes' => 100]]);
$places = [];
$peer = LifelinePeer::open($server);
foreach (['news', 'bin', 'odd', 'throws'] as $channel) {
    $peer->send("S $channel");
    preg_match('/^K ({.*})$/', $peer->read(), $m);
    $k = json_decode($m[1], true);
    $places[$channel] = ['e' => $k['e'], 'o' => $k['o'], 'mid' => $k['mid']];
}
$peer->peer->cut();
pump($server, fn () => count($server) === 0);
// More than 100 bytes: only the last one is kept.
foreach (array_keys($places) as $channel) {
    foreach ([1, 2, 3] as $n) {
        $server->publish($channel, str_repeat((string) $n, 60));
    }
}
$resume = fn ($peer) => LifelinePeer::resume($server, $peer, more: ['resume' => ['sid' => $peer->welcome['sid'], 'tok' => $peer->welcome['tok'], 's' => 0, 'ch' => $places]]);
$again = $resume($peer);
var_dump($again->welcome()['resumed']);
$frames = [];
do {
    $frame = $again->read();
    $frame = preg_replace(['/"e":"[^"]*"/', '/"mid":"[^"]*"/', '/([BC] \S+) \S+ (\d+) \S+/'], ['"e":E', '"mid":M', '$1 E $2 M'], $frame);
    $frames[] = str_replace("\xff", 'ff', $frame);
} while ($frame !== 'R 0');
sort($frames);
echo implode("\n", $frames), "\n";
var_dump($asked, $server->stats()['sessions']['gaps']);
?>
--EXPECT--
bool(true)
TypeError: onSnapshot must return a string, null returned
DomainException: no
B news E 3 M | state of news
C odd E 3 M | 333333333333333333333333333333333333333333333333333333333333
C throws E 3 M | 333333333333333333333333333333333333333333333333333333333333
G {"channel":"bin","from":1,"to":2,"why":"history"}
G {"channel":"news","from":1,"to":2,"why":"history"}
G {"channel":"odd","from":1,"to":2,"why":"history"}
G {"channel":"throws","from":1,"to":2,"why":"history"}
K {"ch":"bin","st":"snapshot","e":E,"o":2,"mid":M}
K {"ch":"news","st":"snapshot","e":E,"o":2,"mid":M}
K {"ch":"odd","st":"snapshot","e":E,"o":2,"mid":M}
K {"ch":"throws","st":"snapshot","e":E,"o":2,"mid":M}
R 0
binary B bin E 3 M | ff
int(4)
int(4)
