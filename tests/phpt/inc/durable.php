<?php
/** What the tests of an outbox on disk share; needs client.php. */

/** A directory that does not exist, gone again at the end. */
function outbox_directory(): string
{
    $directory = sys_get_temp_dir() . '/lifeline-outbox-' . getmypid() . '-' . bin2hex(random_bytes(4));
    $owner = getmypid();
    register_shutdown_function(function () use ($directory, $owner) {
        if (getmypid() === $owner && is_dir($directory)) {
            array_map('unlink', glob("$directory/*"));
            rmdir($directory);
        }
    });
    return $directory;
}

/** Another PHP that runs $code with $arguments; [process, its output]. */
function other(string $code, array $arguments = [], array $wrap = []): array
{
    // The JIT is off under valgrind.
    $settings = ['-d', 'extension=' . extension_path(), '-d', 'display_errors=1', '-d', 'pcre.jit=' . ini_get('pcre.jit')];
    $command = [...$wrap, PHP_BINARY, '-n', ...$settings, '-r', $code, '--', ...$arguments];
    $process = proc_open($command, [1 => ['pipe', 'w'], 2 => ['redirect', 1]], $pipes);
    return [$process, $pipes[1]];
}

/** A server that keeps what it gets in $got. */
function collector(?array &$got): WsServer
{
    $got = [];
    return serve(['message' => function (WsConnection $c, string $data) use (&$got) { $got[] = $data; }]);
}

/** Waits until $got has so many different messages. */
function arrived(WsServer $server, array &$got, int $count): void
{
    until($server, function () use (&$got, $count) { return count(array_unique($got)) >= $count; }, "$count messages");
}
