--TEST--
Gateway: sendToAll, sendToClient, isOnline, counts, closeClient, destoryClient
--EXTENSIONS--
lifeline
--FILE--
<?php
require __DIR__ . '/gateway.inc';
use Lifeline\Gateway;
try {
    Gateway::sendToAll('too early');
} catch (LogicException $e) {
    echo $e->getMessage(), "\n";
}
[$server, $peers, [$a, $b, $c]] = gateway(3);
var_dump($a, Gateway::getAllClientCount(), Gateway::getAllClientIdCount(), Gateway::isOnline($a), Gateway::isOnline('999'), Gateway::isOnline('7f00000108fc00000001'));
var_dump(Gateway::sendToClient($a, 'one'), Gateway::sendToClient('999', 'none'), Gateway::sendToClient('7f00000108fc00000001', 'none'));
var_dump(Gateway::sendToAll('all'), Gateway::sendToAll('some', [$a, $c, '999']), Gateway::sendToAll('most', null, [$a]), Gateway::sendToAll('but', [$a, $b], $a));
echo heard($server, $peers), "\n";
var_dump(Gateway::closeClient($a, 'bye'), Gateway::closeClient('999'), Gateway::isOnline($a));
echo $peers[0]->next($server), ', ', $peers[0]->next($server), "\n";
$peers[0]->close();
var_dump(Gateway::destoryClient($b));
echo $peers[1]->next($server), "\n";
pump($server, fn () => Gateway::getAllClientCount() === 1, 'one that is left');
echo json_encode(Gateway::getAllClientIdList()), "\n";
?>
--EXPECT--
Lifeline\Gateway::attach($server) comes first, in the process that serves
string(1) "1"
int(3)
int(3)
bool(true)
bool(false)
bool(false)
bool(true)
bool(false)
bool(false)
int(3)
int(2)
int(2)
int(1)
one+all+some all+most+but all+some+most
bool(true)
bool(false)
bool(false)
text bye, close 1000
bool(true)
end
{"3":"3"}
