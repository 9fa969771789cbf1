--TEST--
A file that is there but holds nothing usable is named by connect() and send(); the client stays as it was
--EXTENSIONS--
lifeline
--FILE--
<?php
require __DIR__ . '/../inc/client.php';
foreach (['ca', 'cert', 'key'] as $what) {
    $tls = [$what => __FILE__] + ($what === 'key' ? ['cert' => __FILE__] : []);
    $client = new WsClient('wss://127.0.0.1:1', ['tls' => $tls]);
    foreach ([fn () => $client->connect(), fn () => $client->send('x'), fn () => $client->run()] as $way) {
        $text = thrown($way);
        echo preg_match('~^WsConnectException: tls\.[^:]+: .*' . preg_quote(__FILE__) . '~', $text) ? 'named' : $text, ' ';
    }
    echo $client->state()->value, "\n";
}
--EXPECT--
named named named disconnected
named named named disconnected
named named named disconnected
