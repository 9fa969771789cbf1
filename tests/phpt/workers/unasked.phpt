--TEST--
workers: a number that the script throws away is not waited for; what is sent keeps its order with what is counted and sent otherwise
--EXTENSIONS--
lifeline
--FILE--
<?php
require __DIR__ . '/../inc/workers.php';
$site = new Site(<<<'CODE'
$server = site();
$server->onOpen(function (WsConnection $c) { $c->bind('somebody'); $c->subscribe('room'); });
$server->onMessage(function (WsConnection $c, string $data) use ($server) {
    if ($data === 'leave') {
        $server->disconnectUser('somebody', 4000, 'enough');
        return;
    }
    $server->publish('room', 'one');
    $two = $server->publish('room', 'two');
    $server->broadcast('three');
    $server->sendToUser('somebody', 'four');
    $server->sendToUser('nobody', 'lost');
    call_user_func([$server, 'broadcast'], 'five', except: [$c]);
    $c->send("two: $two");
    try {
        $server->broadcast("\xFF");
    } catch (ValueError $e) {
        $c->send($e->getMessage());
    }
});
run_site($server);
CODE);
$peers = [$site->peer(), $site->peer(), $site->peer()];
$peers[0]->text('go');
foreach ($peers as $n => $peer) {
    foreach (range(1, $n ? 5 : 6) as $_) {
        echo substr($peer->next(), 5), ', ';
    }
    echo "\n";
}
$peers[1]->text('leave');
foreach ($peers as $peer) {
    echo $peer->next(), "\n";
}
?>
--EXPECT--
one, two, three, four, two: 3, WsServer::broadcast(): Argument #1 ($data) must be valid UTF-8 unless $binary is true, 
one, two, three, four, five, 
one, two, three, four, five, 
close 4000 enough
close 4000 enough
close 4000 enough
