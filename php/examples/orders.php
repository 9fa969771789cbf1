<?php
// Takes orders over lifeline.v1: each comes to the handler in order and none is lost, whatever happens to the network or the
// client; what is answered waits for a client that is away. Its clients are order.php.
//   php examples/orders.php [ws://127.0.0.1:8080]
declare(strict_types=1);

$server = new WsServer($argv[1] ?? 'ws://127.0.0.1:8080', ['ack' => 'manual']);
$server->onAuth(function (WsRequest $request, ?string $token): array|false {
    return $token === 'secret' ? ['user' => 'ann'] : false;
});
$server->onMessage(function (WsConnection $c, string $order, bool $binary, WsMessage $m): void {
    if ($order === 'coffee') {
        $m->reject('there is tea only');
        return;
    }
    // Kept with the session, over all its connections.
    $number = $c->session->get('orders', 0) + 1;
    $c->session->set('orders', $number);
    echo "$c->user orders $order ($m->id)", PHP_EOL;
    $c->send("$order is order $number");
    // Until here it would come again: after an exception, a lost connection, a restart.
    $m->ack();
});
$server->start();
echo 'Listening on ', $server->address(), PHP_EOL;
$server->run();
