--TEST--
static: files and /lifeline.js are served while this script is blocked
--EXTENSIONS--
lifeline
--FILE--
<?php
require __DIR__ . '/../inc/ws.php';

$root = sys_get_temp_dir() . '/lifeline-static-' . getmypid();
mkdir("$root/public/.hidden", recursive: true);
file_put_contents("$root/secret.txt", 'SECRET');
file_put_contents("$root/public/index.html", '<!doctype html><p>hello');
file_put_contents("$root/public/index.php", 'SECRET');
file_put_contents("$root/public/.hidden/key", 'SECRET');
symlink("$root/secret.txt", "$root/public/link");
register_shutdown_function(function () use ($root): void {
    foreach (['public/index.html', 'public/index.php', 'public/.hidden/key', 'public/link', 'secret.txt'] as $file) {
        unlink("$root/$file");
    }
    array_map('rmdir', ["$root/public/.hidden", "$root/public", $root]);
});

/** Nothing here is dispatched: the engine answers. */
function get(WsServer $server, string $path, array $headers = [], string $method = 'GET'): array
{
    $context = stream_context_create(['http' => [
        'method' => $method, 'header' => $headers, 'ignore_errors' => true, 'follow_location' => 0, 'timeout' => LIMIT,
    ]]);
    $body = file_get_contents(str_replace('ws://', 'http://', $server->address()) . $path, false, $context);
    $fields = [];
    foreach (array_slice($http_response_header, 1) as $line) {
        [$name, $value] = explode(': ', $line, 2);
        $fields[strtolower($name)] = $value;
    }
    return [(int) explode(' ', $http_response_header[0])[1], $body, $fields];
}

$asked = 0;
$server = serve(['handshake' => function () use (&$asked): bool {
    $asked++;
    return true;
}], ['static' => "$root/public", 'path' => '/ws']);
[$status, $body, $fields] = get($server, '/');
echo $status, ' ', $body, ' ', $fields['content-type'], ' ', $fields['content-length'], ' ', $fields['x-content-type-options'], "\n";
[$status, $body] = get($server, '/', ["If-None-Match: {$fields['etag']}"]);
var_dump($status, $body);
foreach (['/../secret.txt', '/%2e%2e/secret.txt', '/..%2fsecret.txt', '/link', '/index.php', '/.hidden/key', '/no'] as $path) {
    [$status, $body] = get($server, $path);
    echo $path, ' ', $status, str_contains($body, 'SECRET') ? ' SECRET' : '', "\n";
}
echo '/ws ', get($server, '/ws')[0], "\nPOST ", get($server, '/', [], 'POST')[0], "\n";
[$status, $body, $fields] = get($server, '/lifeline.js?v=' . phpversion('lifeline'));
echo $status, ' ', str_contains($body, 'lifeline.v1') ? 'the client' : $body, ' ', $fields['cache-control'], "\n";
var_dump($asked, $server->stats()['files']['served']);

$peer = Peer::open($server, '/ws');
echo explode("\r\n", $peer->head)[0], ' asked: ', $asked, "\n";

$server = serve([], ['static' => true]);
echo get($server, '/')[0], ' ', get($server, '/lifeline.js')[0], "\n";
$server = serve([], ['static' => false]);
echo get($server, '/lifeline.js')[0], "\n";
?>
--EXPECT--
200 <!doctype html><p>hello text/html; charset=utf-8 23 nosniff
int(304)
string(0) ""
/../secret.txt 400
/%2e%2e/secret.txt 400
/..%2fsecret.txt 400
/link 404
/index.php 404
/.hidden/key 404
/no 404
/ws 426
POST 405
200 the client public, max-age=31536000, immutable
int(0)
int(3)
HTTP/1.1 101 Switching Protocols asked: 1
404 200
426
