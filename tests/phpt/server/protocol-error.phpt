--TEST--
A peer that breaks the protocol: onError with WsProtocolException, then onClose
--FILE--
<?php
require __DIR__ . '/../inc/ws.php';
$server = serve([
    'error' => function (Throwable $e, ?WsConnection $c) { global $log; $log .= get_class($e) . ' ' . $e->getCode() . " $c->id\n"; },
    'close' => function ($c, $code, $reason, $clean) { global $log; $log .= "onClose $code ". var_export($clean, true) . "\n"; },
]);
foreach ([[0x83, 'reserved opcode'], [0x81, "\xff\xfe"], [0xC1, 'rsv1'], [0x09, 'fragmented ping']] as [$first, $data]) {
    $peer = Peer::open($server);
    $peer->frame($first, $data);
    echo strtok($peer->next($server), ' '), "\n";
    $peer->cut();
    pump($server, fn () => count($server) === 0);
    echo $log;
    $log = '';
}
?>
--EXPECT--
close
WsProtocolException 1002 1
onClose 1002 false
close
WsProtocolException 1007 2
onClose 1007 false
close
WsProtocolException 1002 3
onClose 1002 false
close
WsProtocolException 1002 4
onClose 1002 false
