--TEST--
workers: stop() in one of them stops the server; run() returns everywhere, and the script goes on behind it
--EXTENSIONS--
lifeline
--FILE--
<?php
require __DIR__ . '/../inc/workers.php';
$code = <<<'CODE'
$server = site();
$server->onMessage(function ($c, $data) use ($server) { $server->stop((float) $data); });
$server->onClose(fn ($c, $code) => file_put_contents(__DIR__ . '/said', "close $code\n", FILE_APPEND));
run_site($server);
file_put_contents(__DIR__ . '/said', var_export(getenv('LIFELINE_WORKER'), true) . ' ' . count($server) . "\n", FILE_APPEND);
exit(getenv('LIFELINE_WORKER') === false ? 5 : 0);
CODE;
foreach (['0', '0.2'] as $drain) {
    $site = new Site($code);
    $peers = [$site->peer(), $site->peer(), $site->peer()];
    $peers[1]->text($drain);
    foreach ($peers as $peer) {
        echo $peer->next(), "\n";
    }
    echo 'status ', $site->status(), "\n";
    $said = file("$site->directory/said");
    sort($said);
    echo implode($said), str_contains($site->log(), 'error') ? $site->log() : '';
}
?>
--EXPECT--
close 1001 server shutdown
close 1001 server shutdown
close 1001 server shutdown
status 5
'1' 0
'2' 0
close 1001
close 1001
close 1001
false 0
close 1001 server shutdown
close 1001 server shutdown
close 1001 server shutdown
status 5
'1' 0
'2' 0
close 1001
close 1001
close 1001
false 0
