--TEST--
Gateway: bindUid, unbindUid, isUidOnline, getClientIdByUid, getUidByClientId, sendToUid and lists of uids
--EXTENSIONS--
lifeline
--FILE--
<?php
require __DIR__ . '/gateway.inc';
use Lifeline\Gateway;
[$server, $peers, [$a, $b, $c]] = gateway(3);
var_dump(Gateway::bindUid($a, 'anna'), Gateway::bindUid($b, 'anna'), Gateway::bindUid((int) $c, 7), Gateway::bindUid('999', 'x'));
var_dump(Gateway::isUidOnline('anna'), Gateway::isUidOnline(7), Gateway::isUidOnline('zoe'));
var_dump(Gateway::getClientIdByUid('anna') === [$a, $b], Gateway::getClientIdByUid('zoe'), Gateway::getUidByClientId($c), Gateway::getUidByClientId('999'));
var_dump(Gateway::sendToUid('anna', 'to anna'), Gateway::sendToUid(['anna', 7, 'zoe'], 'to both'));
echo heard($server, $peers), "\n";
echo json_encode(Gateway::getAllUidList()), ' ', Gateway::getAllUidCount(), "\n";
// Only from the uid that it has.
Gateway::unbindUid($a, 'zoe');
var_dump(Gateway::getUidByClientId($a));
Gateway::unbindUid($a, 'anna');
Gateway::unbindUid('999', 'anna');
var_dump(Gateway::getUidByClientId($a), Gateway::getClientIdByUid('anna') === [$b], Gateway::getAllUidCount());
// A second takes the place of the first.
Gateway::bindUid($b, 'bert');
var_dump(Gateway::isUidOnline('anna'), Gateway::sendToUid('anna', 'nobody'), Gateway::sendToUid('bert', 'to bert'));
Gateway::bindUid($a, 'anna');
var_dump(Gateway::sendToUid('anna', 'again'));
echo heard($server, $peers), "\n";
// What callbacks do is seen here.
$server->connection((int) $c)->bind('carl');
var_dump(Gateway::getUidByClientId($c));
?>
--EXPECT--
bool(true)
bool(true)
bool(true)
bool(false)
bool(true)
bool(true)
bool(false)
bool(true)
array(0) {
}
string(1) "7"
NULL
int(2)
int(3)
to anna+to both to anna+to both to both
{"anna":"anna","7":"7"} 2
string(4) "anna"
NULL
bool(true)
int(2)
bool(false)
int(0)
int(1)
int(1)
again to bert -
string(4) "carl"
