<?php
/**
 * A WebSocket peer of raw bytes (RFC 6455), and the means to run a server and its peer in one script.
 * Nothing here waits without a limit: a test that hangs says where.
 */

// Zend's allocator is off under valgrind, where all is slow and beats of a heartbeat come in between.
define('SLOW', getenv('USE_ZEND_ALLOC') === '0');
define('LIMIT', SLOW ? 120.0 : 20.0);

/** Polls until $done; fails after LIMIT seconds. */
function pump(WsServer $server, callable $done, string $what = 'the condition'): void
{
    $end = microtime(true) + LIMIT;
    while (!$done()) {
        if (microtime(true) > $end) {
            throw new RuntimeException("waited in vain for $what");
        }
        $server->poll(0.02);
    }
}

/** Waits until $done while nobody dispatches; fails after LIMIT seconds. */
function meanwhile(callable $done, string $what): void
{
    $end = microtime(true) + LIMIT;
    while (!$done()) {
        if (microtime(true) > $end) {
            throw new RuntimeException("waited in vain for $what");
        }
        usleep(1000);
    }
}

/** A server on a free port, already started. */
function serve(array $callbacks = [], array $options = [], string $listen = 'ws://127.0.0.1:0'): WsServer
{
    if (SLOW) {
        $options += ['heartbeat' => ['interval' => 600], 'watchdog' => ['lag' => 600]];
    }
    $server = new WsServer($listen, $options);
    foreach ($callbacks as $event => $callback) {
        $server->on($event, $callback);
    }
    $server->start();
    return $server;
}

final class Peer
{
    /** @var resource */
    public $socket;
    public string $head = '';
    private string $buffer = '';
    public bool $ended = false;
    /** For peers that speak lifeline.v1. */
    public array $welcome = [];

    /** Connects and sends the opening handshake; does not wait for the answer. */
    public function __construct(string $address, string $target = '/', array $headers = [], string $method = 'GET')
    {
        $url = preg_replace('~^wss?://~', 'tcp://', $address);
        // Without it a second small frame waits for the acknowledgement of the first.
        $context = stream_context_create(['socket' => ['tcp_nodelay' => true]]);
        $this->socket = stream_socket_client($url, $code, $message, LIMIT, STREAM_CLIENT_CONNECT, $context);
        if (!$this->socket) {
            throw new RuntimeException("cannot connect to $url: $message");
        }
        stream_set_blocking($this->socket, false);
        $lines = ["$method $target HTTP/1.1", 'Host: localhost', 'Upgrade: websocket', 'Connection: Upgrade',
            'Sec-WebSocket-Version: 13', 'Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==', ...$headers];
        $this->write(implode("\r\n", $lines) . "\r\n\r\n");
    }

    /** A peer whose handshake was accepted and whose onOpen, if any, was run. */
    public static function open(WsServer $server, string $target = '/', array $headers = []): self
    {
        $before = count($server);
        $peer = new self($server->address(), $target, $headers);
        pump($server, fn () => count($server) > $before && $peer->poll('head') !== '', 'an open connection');
        if (!str_starts_with($peer->head, 'HTTP/1.1 101 ')) {
            throw new RuntimeException("refused: $peer->head");
        }
        return $peer;
    }

    public function write(string $bytes): void
    {
        $end = microtime(true) + LIMIT;
        while ($bytes !== '') {
            $written = @fwrite($this->socket, $bytes);
            if ($written === false || microtime(true) > $end) {
                throw new RuntimeException('the peer cannot write');
            }
            $bytes = substr($bytes, $written);
            if ($bytes !== '') {
                usleep(500);
            }
        }
    }

    public function text(string $data): void
    {
        $this->frame(0x81, $data);
    }

    public function binary(string $data): void
    {
        $this->frame(0x82, $data);
    }

    public function close(int $code = 1000, string $reason = ''): void
    {
        $this->frame(0x88, pack('n', $code) . $reason);
    }

    /** One masked frame; $first is its first byte. */
    public function frame(int $first, string $data): void
    {
        $length = strlen($data);
        $head = match (true) {
            $length < 126 => chr(0x80 | $length),
            $length < 65536 => chr(0xFE) . pack('n', $length),
            default => chr(0xFF) . pack('J', $length),
        };
        $mask = random_bytes(4);
        $this->write(chr($first) . $head . $mask . ($data ^ str_repeat($mask, intdiv($length, 4) + 1)));
    }

    /** Cuts the connection without a word. */
    public function cut(): void
    {
        fclose($this->socket);
        $this->ended = true;
    }

    private function fill(): void
    {
        if ($this->ended) {
            return;
        }
        $bytes = @fread($this->socket, 1 << 20);
        if (is_string($bytes) && $bytes !== '') {
            $this->buffer .= $bytes;
        } elseif (feof($this->socket)) {
            $this->ended = true;
        }
    }

    /** What is there now: 'head' gives '' and 'frame' gives null when it is not complete. */
    public function poll(string $what): mixed
    {
        $this->fill();
        if ($what === 'head') {
            if ($this->head === '' && ($at = strpos($this->buffer, "\r\n\r\n")) !== false) {
                $this->head = substr($this->buffer, 0, $at + 4);
                $this->buffer = substr($this->buffer, $at + 4);
            }
            return $this->head;
        }
        $have = strlen($this->buffer);
        if ($have < 2) {
            return null;
        }
        $length = ord($this->buffer[1]) & 0x7F;
        $start = 2;
        if ($length === 126) {
            if ($have < 4) {
                return null;
            }
            $length = unpack('n', substr($this->buffer, 2, 2))[1];
            $start = 4;
        } elseif ($length === 127) {
            if ($have < 10) {
                return null;
            }
            $length = unpack('J', substr($this->buffer, 2, 8))[1];
            $start = 10;
        }
        if ($have < $start + $length) {
            return null;
        }
        $frame = [ord($this->buffer[0]), substr($this->buffer, $start, $length)];
        $this->buffer = substr($this->buffer, $start + $length);
        return $frame;
    }

    /** The answer's head, polling $server meanwhile if given. */
    public function head(?WsServer $server = null): string
    {
        $this->until(fn () => $this->poll('head') !== '' || $this->ended, $server, 'a response head');
        return $this->head;
    }

    /** The rest of a refused handshake's answer. */
    public function body(?WsServer $server = null): string
    {
        $this->head($server);
        $this->until(function () {
            $this->fill();
            return $this->ended;
        }, $server, 'the end of the body');
        return $this->buffer;
    }

    /** The next frame as [first byte, payload]; null at the end of the stream. */
    public function read(?WsServer $server = null): ?array
    {
        $frame = null;
        $this->until(function () use (&$frame) {
            $frame = $this->poll('frame');
            return $frame !== null || $this->ended;
        }, $server, 'a frame');
        return $frame;
    }

    /** The next frame in words: "text abc", "close 1000 reason", "end". */
    public function next(?WsServer $server = null): string
    {
        $frame = $this->read($server);
        if ($frame === null) {
            return 'end';
        }
        [$first, $data] = $frame;
        return match ($first) {
            0x81 => "text $data",
            0x82 => 'binary ' . bin2hex($data),
            0x88 => rtrim('close ' . ($data === '' ? '' : unpack('n', $data)[1] . ' ' . substr($data, 2))),
            0x89 => "ping $data",
            0x8A => "pong $data",
            default => sprintf('frame %02x %s', $first, bin2hex($data)),
        };
    }

    private function until(callable $done, ?WsServer $server, string $what): void
    {
        $end = microtime(true) + LIMIT;
        while (!$done()) {
            if (microtime(true) > $end) {
                throw new RuntimeException("waited in vain for $what");
            }
            if ($server) {
                $server->poll(0.005);
            } else {
                usleep(1000);
            }
        }
    }
}

/** Runs $code in a PHP of its own with this extension; returns [exit code, output]. */
function php(string $code, array $ini = []): array
{
    $file = tempnam(sys_get_temp_dir(), 'lifeline');
    file_put_contents($file, "<?php require '" . __FILE__ . "';\n" . $code);
    $command = [PHP_BINARY, '-d', 'display_errors=1', '-d', 'log_errors=0', '-d', 'html_errors=0'];
    // Off under valgrind.
    array_push($command, '-d', 'pcre.jit=' . ini_get('pcre.jit'));
    $extension = getenv('LIFELINE_EXTENSION') ?: extension_path();
    array_push($command, '-d', "extension=$extension");
    foreach ($ini as $key => $value) {
        array_push($command, '-d', "$key=$value");
    }
    $command[] = $file;
    $process = proc_open($command, [1 => ['pipe', 'w'], 2 => ['redirect', 1]], $pipes);
    $output = stream_get_contents($pipes[1]);
    $status = proc_close($process);
    unlink($file);
    return [$status, str_replace($file, 'FILE', $output)];
}

/** Where this process has the extension from. */
function extension_path(): string
{
    foreach (file('/proc/self/maps') as $line) {
        if (preg_match('~ (/\S*lifeline[^/]*\.so)$~', trim($line), $match)) {
            return $match[1];
        }
    }
    throw new RuntimeException('the extension is not loaded');
}

/** A php-cgi of this version, or null. LIFELINE_PHP_CGI names one. */
function cgi(): ?string
{
    $version = PHP_MAJOR_VERSION . '.' . PHP_MINOR_VERSION;
    foreach ([getenv('LIFELINE_PHP_CGI') ?: '', "/usr/bin/php-cgi$version", PHP_BINDIR . '/php-cgi'] as $path) {
        if ($path !== '' && is_executable($path)) {
            return $path;
        }
    }
    return null;
}
