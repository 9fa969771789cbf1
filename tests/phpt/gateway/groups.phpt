--TEST--
Gateway: joinGroup, leaveGroup, ungroup, sendToGroup, counts and lists of groups
--EXTENSIONS--
lifeline
--FILE--
<?php
require __DIR__ . '/gateway.inc';
use Lifeline\Gateway;
[$server, $peers, [$a, $b, $c]] = gateway(3, ['limits' => ['maxSubscriptions' => 2]]);
var_dump(Gateway::joinGroup($a, 'room'), Gateway::joinGroup($b, 'room'), Gateway::joinGroup($c, 12), Gateway::joinGroup('999', 'room'));
Gateway::joinGroup($a, 'room');
var_dump(Gateway::getClientIdCountByGroup('room'), Gateway::getClientCountByGroup(12), Gateway::getClientIdCountByGroup('none'));
echo json_encode(Gateway::getClientIdListByGroup('room')), ' ', json_encode(Gateway::getAllGroupIdList()), "\n";
var_dump(Gateway::sendToGroup('room', '1'), Gateway::sendToGroup(['room', 12], '2'), Gateway::sendToGroup('room', '3', [$a]), Gateway::sendToGroup('room', '4', $b));
echo heard($server, $peers), "\n";
Gateway::bindUid($a, 'anna');
Gateway::bindUid($b, 'anna');
echo json_encode(Gateway::getUidListByGroup('room')), ' ', Gateway::getUidCountByGroup('room'), "\n";
var_dump(Gateway::leaveGroup($a, 'room'), Gateway::leaveGroup($a, 'room'), Gateway::leaveGroup('999', 'room'), Gateway::getClientIdCountByGroup('room'));
Gateway::ungroup('room');
Gateway::ungroup('none');
var_dump(Gateway::getClientIdCountByGroup('room'), Gateway::sendToGroup('room', 'nobody'), Gateway::getAllGroupIdList());
Gateway::joinGroup($a, 'x');
Gateway::joinGroup($a, 'y');
try {
    Gateway::joinGroup($a, 'z');
} catch (WsException $e) {
    echo $e->getMessage(), "\n";
}
?>
--EXPECTF--
bool(true)
bool(true)
bool(true)
bool(false)
int(2)
int(1)
int(0)
{"1":"1","2":"2"} ["%s","%s"]
int(2)
int(3)
int(1)
int(1)
1+2+4 1+2+3 2
{"anna":"anna"} 1
bool(true)
bool(true)
bool(false)
int(1)
int(0)
int(0)
array(1) {
  [0]=>
  string(2) "12"
}
%slimits.maxSubscriptions%s
