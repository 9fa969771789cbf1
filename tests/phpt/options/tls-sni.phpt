--TEST--
tls.sni chooses the certificate by the name that the client asks for
--EXTENSIONS--
lifeline
openssl
--FILE--
<?php
require __DIR__ . '/../inc/ws.php';
$folder = sys_get_temp_dir() . '/lifeline-sni-' . getmypid();
mkdir($folder);
register_shutdown_function(function () use ($folder) {
    array_map('unlink', glob("$folder/*"));
    rmdir($folder);
});
file_put_contents("$folder/openssl.cnf", "[req]\ndistinguished_name = dn\n[dn]\n[leaf]\nbasicConstraints = CA:FALSE\n");
$config = ['config' => "$folder/openssl.cnf", 'x509_extensions' => 'leaf', 'digest_alg' => 'sha256', 'private_key_bits' => 2048,
    'private_key_type' => OPENSSL_KEYTYPE_EC, 'curve_name' => 'prime256v1'];
foreach (['default', 'chat'] as $name) {
    $key = openssl_pkey_new($config);
    $certificate = openssl_csr_sign(openssl_csr_new(['commonName' => $name], $key, $config), null, $key, 2, $config);
    openssl_x509_export_to_file($certificate, "$folder/$name.pem");
    openssl_pkey_export_to_file($key, "$folder/$name.key", null, $config);
}
$server = serve([], ['tls' => ['cert' => "$folder/default.pem", 'key' => "$folder/default.key",
    'sni' => ['chat.example' => ['cert' => "$folder/chat.pem", 'key' => "$folder/chat.key"]]]], 'wss://127.0.0.1:0');
foreach (['chat.example', 'other.example', 'a.chat.example'] as $name) {
    $context = stream_context_create(['ssl' => ['peer_name' => $name, 'verify_peer' => false, 'verify_peer_name' => false, 'capture_peer_cert' => true]]);
    $socket = stream_socket_client(str_replace('wss:', 'ssl:', $server->address()), $code, $message, LIMIT, STREAM_CLIENT_CONNECT, $context);
    $certificate = stream_context_get_params($socket)['options']['ssl']['peer_certificate'];
    echo "$name: ", openssl_x509_parse($certificate)['subject']['CN'], "\n";
}
?>
--EXPECT--
chat.example: chat
other.example: default
a.chat.example: default
