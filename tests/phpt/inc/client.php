<?php
/** What the tests of WsClient share; needs ws.php. */

require_once __DIR__ . '/ws.php';

/** Polls any object's callbacks until $done; fails after LIMIT seconds. */
function until(WsClient|WsServer $any, callable $done, string $what = 'the condition'): void
{
    $end = microtime(true) + LIMIT;
    while (!$done()) {
        if (microtime(true) > $end) {
            throw new RuntimeException("waited in vain for $what");
        }
        $any->poll(0.02);
    }
}

/** A server that echoes. */
function echo_server(array $callbacks = [], array $options = []): WsServer
{
    return serve($callbacks + [
        'message' => fn (WsConnection $c, string $data, bool $binary) => $c->send($data, $binary),
    ], $options);
}

/** Options that reconnect at once. */
const FAST = ['reconnect' => ['base' => 0.01, 'max' => 0.02, 'floor' => 0.0, 'first' => 0.01]];

/** A server of raw bytes: the engine dials from its own threads, so accepting may block. */
final class RawServer
{
    /** @var resource */
    private $listener;

    public function __construct()
    {
        $this->listener = stream_socket_server('tcp://127.0.0.1:0', $code, $message);
        if (!$this->listener) {
            throw new RuntimeException($message);
        }
    }

    public function url(string $resource = '/'): string
    {
        return 'ws://' . stream_socket_get_name($this->listener, false) . $resource;
    }

    /** Accepts one connection, reads its request and answers; returns [socket, request]. */
    public function answer(string $status, array $headers = []): array
    {
        [$socket, $request] = $this->accept();
        fwrite($socket, implode("\r\n", ["HTTP/1.1 $status", ...$headers]) . "\r\n\r\n");
        return [$socket, $request];
    }

    /** Accepts one connection and the upgrade. */
    public function upgrade(array $headers = []): array
    {
        [$socket, $request] = $this->accept();
        preg_match('~^sec-websocket-key: *(\S+)~mi', $request, $match);
        $accept = base64_encode(sha1($match[1] . '258EAFA5-E914-47DA-95CA-C5AB0DC85B11', true));
        fwrite($socket, implode("\r\n", ['HTTP/1.1 101 Switching Protocols', 'Upgrade: websocket',
            'Connection: Upgrade', "Sec-WebSocket-Accept: $accept", ...$headers]) . "\r\n\r\n");
        return [$socket, $request];
    }

    private function accept(): array
    {
        $socket = @stream_socket_accept($this->listener, LIMIT);
        if (!$socket) {
            throw new RuntimeException('nobody has connected');
        }
        stream_set_timeout($socket, (int) LIMIT);
        $request = '';
        while (!str_ends_with($request, "\r\n\r\n")) {
            $line = fgets($socket);
            if ($line === false) {
                throw new RuntimeException('no whole request');
            }
            $request .= $line;
        }
        return [$socket, $request];
    }

    /** The next frame of a client as [first byte, payload]. */
    public static function frame($socket): array
    {
        $head = self::bytes($socket, 2);
        $length = ord($head[1]) & 0x7F;
        if ($length === 126) {
            $length = unpack('n', self::bytes($socket, 2))[1];
        } elseif ($length === 127) {
            $length = unpack('J', self::bytes($socket, 8))[1];
        }
        $mask = self::bytes($socket, 4);
        $data = $length ? self::bytes($socket, $length) : '';
        return [ord($head[0]), $data ^ str_repeat($mask, intdiv($length, 4) + 1)];
    }

    private static function bytes($socket, int $count): string
    {
        $bytes = '';
        while (strlen($bytes) < $count) {
            $more = fread($socket, $count - strlen($bytes));
            if ($more === false || $more === '') {
                throw new RuntimeException('the client sent no whole frame');
            }
            $bytes .= $more;
        }
        return $bytes;
    }
}

/** Runs $f and says what it throws. */
function thrown(callable $f): string
{
    try {
        $f();
    } catch (Throwable $e) {
        return get_class($e) . ": {$e->getMessage()}";
    }
    return 'nothing thrown';
}
