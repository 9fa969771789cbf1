--TEST--
Gateway: setSession, updateSession, getSession and lists of sessions; a session ends with its client
--EXTENSIONS--
lifeline
--FILE--
<?php
require __DIR__ . '/gateway.inc';
use Lifeline\Gateway;
[$server, $peers, [$a, $b]] = gateway(2);
var_dump(Gateway::getSession($a), Gateway::getSession('999'), Gateway::setSession('999', []), Gateway::updateSession('999', []));
var_dump(Gateway::setSession($a, ['name' => 'Ann', 'cart' => ['tea' => 1, 'milk' => 2]]), Gateway::updateSession($a, ['cart' => ['tea' => 5], 'vip' => true]));
echo json_encode(Gateway::getSession($a)), "\n";
Gateway::updateSession($b, ['name' => 'Ben']);
Gateway::joinGroup($b, 'room');
echo json_encode(Gateway::getAllClientSessions()), ' ', json_encode(Gateway::getClientSessionsByGroup('room')), "\n";
Gateway::setSession($a, ['name' => 'Anna']);
echo json_encode(Gateway::getSession($a)), "\n";
$peers[0]->cut();
pump($server, fn () => count($server) === 1, 'the end of one');
echo json_encode([Gateway::getSession($a), Gateway::getAllClientSessions()]), "\n";
?>
--EXPECT--
array(0) {
}
NULL
bool(false)
bool(false)
bool(true)
bool(true)
{"name":"Ann","cart":{"tea":5,"milk":2},"vip":true}
{"1":{"name":"Ann","cart":{"tea":5,"milk":2},"vip":true},"2":{"name":"Ben"}} {"2":{"name":"Ben"}}
{"name":"Anna"}
[null,{"2":{"name":"Ben"}}]
