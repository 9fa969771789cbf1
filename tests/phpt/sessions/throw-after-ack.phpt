--TEST--
A handler that throws after ack(): the message is acknowledged, the connection closes with 1011 all the same
--FILE--
<?php
require __DIR__ . '/../inc/lifeline.php';
foreach (['auto', 'manual'] as $ack) {
    $server = serve([
        'message' => function ($c, $data, $binary, WsMessage $m) {
            echo "message $data\n";
            $m->ack();
            if ($data === 'bad') {
                throw new DomainException('a bug behind it');
            }
        },
        'error' => fn ($e, $c) => print($e->getMessage() . "\n"),
        'close' => fn ($c, $code) => print("onClose $code\n"),
    ], ['ack' => $ack]);
    $peer = LifelinePeer::open($server);
    $peer->send("P 1\nfine");
    echo $peer->read(), "\n";
    $peer->send("P 2\nbad");
    do { $frame = $peer->read(); } while (!str_starts_with($frame, 'close'));
    echo $frame, "\n";
    $peer->peer->close(1011);
    pump($server, fn () => count($server) === 0);
    $server->stop(0.1);
    $server->run();
}
?>
--EXPECT--
message fine
A 1
message bad
a bug behind it
close 1011
onClose 1011
message fine
A 1
message bad
a bug behind it
close 1011
onClose 1011
