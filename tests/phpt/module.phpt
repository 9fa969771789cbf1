--TEST--
The module tells version, features and ini values
--FILE--
<?php
require __DIR__ . '/inc/ws.php';
$info = shell_exec(PHP_BINARY . ' -d extension=' . escapeshellarg(extension_path()) . ' --ri lifeline');
foreach (['version => ' . phpversion('lifeline'), 'lifeline.io_threads => 0 => 0', 'TLS => rustls',
    'compression => permessage-deflate (RFC 7692)'] as $line) {
    var_dump(str_contains($info, $line));
}
var_dump(ini_set('lifeline.io_threads', '2'), ini_get('lifeline.io_threads'));
?>
--EXPECT--
bool(true)
bool(true)
bool(true)
bool(true)
string(1) "0"
string(1) "2"
