--TEST--
wss: the server's certificate is checked against tls.ca, not at all with verify false, mTLS both ways
--EXTENSIONS--
lifeline
openssl
--FILE--
<?php
require __DIR__ . '/../inc/client.php';
$folder = sys_get_temp_dir() . '/lifeline-tls-' . getmypid();
mkdir($folder);
register_shutdown_function(function () use ($folder) {
    array_map('unlink', glob("$folder/*"));
    rmdir($folder);
});
file_put_contents("$folder/openssl.cnf", <<<'CNF'
[req]
distinguished_name = dn
[dn]
[ca]
basicConstraints = critical, CA:TRUE
[leaf]
basicConstraints = CA:FALSE
subjectAltName = IP:127.0.0.1, DNS:localhost
CNF);
function certificate(string $folder, string $name, ?array $signer, string $kind): array
{
    $config = ['config' => "$folder/openssl.cnf", 'x509_extensions' => $kind, 'digest_alg' => 'sha256', 'private_key_bits' => 2048,
        'private_key_type' => OPENSSL_KEYTYPE_EC, 'curve_name' => 'prime256v1'];
    $key = openssl_pkey_new($config);
    $request = openssl_csr_new(['commonName' => $name], $key, $config);
    $certificate = openssl_csr_sign($request, $signer[0] ?? null, $signer[1] ?? $key, 2, $config, random_int(1, 1 << 30));
    openssl_x509_export_to_file($certificate, "$folder/$name.pem");
    openssl_pkey_export_to_file($key, "$folder/$name.key", null, $config);
    return [$certificate, $key];
}
$ca = certificate($folder, 'ca', null, 'ca');
certificate($folder, 'server', $ca, 'leaf');
certificate($folder, 'client', $ca, 'leaf');
certificate($folder, 'other-ca', null, 'ca');

function attempt(WsServer $server, array $tls): string
{
    $client = new WsClient($server->address(), ['tls' => $tls, 'reconnect' => ['maxAttempts' => 1] + FAST['reconnect']]);
    $client->send('hello');
    try {
        return 'got ' . $client->receive(10);
    } catch (WsConnectException $e) {
        return 'WsConnectException' . (preg_match('/certificate|TLS|tls/', $e->getMessage()) ? '' : ": {$e->getMessage()}");
    } finally {
        $client->close();
    }
}
$quiet = ['logLevel' => 'emergency'];
$server = serve(
    ['message' => fn (WsConnection $c, string $data) => $c->send($data)],
    ['tls' => ['cert' => "$folder/server.pem", 'key' => "$folder/server.key"]] + $quiet,
    'wss://127.0.0.1:0',
);
echo 'system: ', attempt($server, []), "\n";
echo 'ca: ', attempt($server, ['ca' => "$folder/ca.pem"]), "\n";
echo 'other ca: ', attempt($server, ['ca' => "$folder/other-ca.pem"]), "\n";
echo 'unchecked: ', attempt($server, ['verify' => false]), "\n";
$server->stop(0);
$server = serve(
    ['message' => fn (WsConnection $c, string $data) => $c->send($data)],
    ['tls' => ['cert' => "$folder/server.pem", 'key' => "$folder/server.key", 'clientCa' => "$folder/ca.pem"]] + $quiet,
    'wss://127.0.0.1:0',
);
$ca = ['ca' => "$folder/ca.pem"];
echo 'mTLS: ', attempt($server, $ca + ['cert' => "$folder/client.pem", 'key' => "$folder/client.key"]), "\n";
echo 'mTLS without: ', preg_replace('/:.*/', '', attempt($server, $ca)), "\n";
--EXPECT--
system: WsConnectException
ca: got hello
other ca: WsConnectException
unchecked: got hello
mTLS: got hello
mTLS without: WsConnectException
