<?php
/** A client that speaks lifeline.v1 with hand-made frames, against docs/protocol.md. */

require_once __DIR__ . '/ws.php';

final class LifelinePeer
{
    public Peer $peer;
    /** The last WELCOME. */
    public array $welcome = [];

    private int $before;

    /** Upgraded; nothing said. */
    public function __construct(private WsServer $server, public string $outbox = 'box')
    {
        $this->before = self::newest($server);
        $this->peer = new Peer($server->address(), '/', ['Sec-WebSocket-Protocol: lifeline.v1']);
        $this->peer->head($server);
    }

    /** A new session, welcomed, its replay done. */
    public static function open(WsServer $server, string $outbox = 'box', array $hello = []): self
    {
        $self = new self($server, $outbox);
        $self->hello($hello);
        $self->welcome();
        $self->expect('R 0');
        return $self;
    }

    /** Comes back to the session of $old. */
    public static function resume(WsServer $server, self $old, int $handled = 0, int $first = 1, ?int $next = null, array $more = []): self
    {
        $self = new self($server, $old->outbox);
        $self->hello([
            'resume' => ['sid' => $old->welcome['sid'], 'tok' => $old->welcome['tok'], 's' => $handled, 'ch' => new stdClass],
            'outbox' => ['id' => $old->outbox, 'gen' => 1, 'first' => $first, 'next' => $next ?? $first],
            ...$more,
        ]);
        return $self;
    }

    public function hello(array $more = []): void
    {
        $hello = ['v' => 1, 'outbox' => ['id' => $this->outbox, 'gen' => 1, 'first' => 1, 'next' => 1], ...$more];
        $this->send('H ' . json_encode($hello));
    }

    public function welcome(): array
    {
        $frame = $this->read();
        if (!str_starts_with($frame, 'W ')) {
            throw new RuntimeException("not a WELCOME: $frame");
        }
        // Also onOpen has been called now.
        pump($this->server, fn () => self::newest($this->server) > $this->before, 'onOpen');
        return $this->welcome = json_decode(substr($frame, 2), true);
    }

    private static function newest(WsServer $server): int
    {
        return max([0, ...array_map(fn (WsConnection $c) => $c->id, [...$server->connections()])]);
    }

    public function send(string $frame): void
    {
        $this->peer->text($frame);
    }

    /** The next frame, with " | " for the line feed; a close frame is `close CODE REASON`. Beats are answered. */
    public function read(): string
    {
        while (true) {
            $frame = null;
            pump($this->server, function () use (&$frame) {
                $frame = $this->peer->poll('frame');
                return $frame !== null || $this->peer->ended;
            }, 'a frame');
            if ($frame === null) {
                return 'end';
            }
            [$first, $data] = $frame;
            if ($first === 0x88) {
                return trim('close ' . unpack('n', $data)[1] . ' ' . substr($data, 2));
            }
            if (str_starts_with($data, 'I ')) {
                $this->send('O' . substr($data, 1));
                continue;
            }
            $data = preg_replace('/\n/', ' | ', $data, 1);
            return $first === 0x82 ? "binary $data" : $data;
        }
    }

    public function expect(string $frame): void
    {
        $got = $this->read();
        if ($got !== $frame) {
            throw new RuntimeException("expected $frame, got $got");
        }
    }

    /** Reads until $frame comes. */
    public function until(string $frame): void
    {
        for ($count = 0; $count < 100; $count++) {
            if ($this->read() === $frame) {
                return;
            }
        }
        throw new RuntimeException("$frame did not come");
    }
}
