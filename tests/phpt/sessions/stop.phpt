--TEST--
The last onClose of a server that has stopped finds the session's values
--FILE--
<?php
require __DIR__ . '/../inc/lifeline.php';
$server = serve([
    'open' => fn (WsConnection $c) => $c->session->set('cart', ['tea']),
    'close' => function (WsConnection $c) use (&$session) {
        $session = $c->session;
        echo 'close ', json_encode($session->all()), ' ', json_encode($session->set('seen', true)), "\n";
    },
]);
LifelinePeer::open($server);
$server->stop(0.1);
// Nobody dispatches while it ends: all is told at once.
usleep(500_000);
$server->run();
echo json_encode($session->get('cart')), "\n";
?>
--EXPECT--
close {"cart":["tea"]} true
null
