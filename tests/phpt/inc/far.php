<?php
/** A server of lifeline.v1 by hand, against docs/protocol.md, for tests of WsClient. */

require_once __DIR__ . '/client.php';

final class Far
{
    private RawServer $server;
    /** @var resource */
    public $socket;
    /** The last HELLO. */
    public array $hello = [];
    private int $tokens = 0;

    public function __construct()
    {
        $this->server = new RawServer();
    }

    public function url(): string
    {
        return $this->server->url();
    }

    /** Accepts a connection and its HELLO. */
    public function accept(): self
    {
        [$this->socket] = $this->server->upgrade(['Sec-WebSocket-Protocol: lifeline.v1', 'Lifeline-Spread: 0.001']);
        [$type, $json] = explode(' ', $this->read(), 2);
        if ($type !== 'H') {
            throw new RuntimeException("not a HELLO: $type $json");
        }
        $this->hello = json_decode($json, true);
        return $this;
    }

    /** Answers it: the session goes on if the client has one. */
    public function welcome(array $more = []): self
    {
        $this->tokens++;
        return $this->send('W ' . json_encode($more + [
            'sid' => 'session', 'tok' => str_pad("t$this->tokens", 24, '-'), 'resumed' => isset($this->hello['resume']),
            's0' => 1 + ($this->hello['resume']['s'] ?? 0), 'q' => 0, 'spread' => 0.001,
            'limits' => ['maxMessage' => 1 << 20, 'window' => 1 << 20],
        ]))->send('R 0');
    }

    /** Drops the connection. */
    public function cut(): void
    {
        fclose($this->socket);
    }

    public function send(string $frame, int $first = 0x81): self
    {
        $length = strlen($frame);
        $head = $length < 126 ? chr($length) : chr(126) . pack('n', $length);
        fwrite($this->socket, chr($first) . $head . $frame);
        return $this;
    }

    public function close(int $code): self
    {
        return $this->send(pack('n', $code), 0x88);
    }

    /** The client's next frame, " | " for the line feed; `close CODE`. */
    public function read(): string
    {
        [$first, $data] = RawServer::frame($this->socket);
        return $first === 0x88 ? 'close ' . unpack('n', $data)[1] : preg_replace('/\n/', ' | ', $data, 1);
    }
}

/** A client of $far that comes back at once. */
function client_of(Far $far, array $options = []): WsClient
{
    return new WsClient($far->url(), $options + FAST);
}
