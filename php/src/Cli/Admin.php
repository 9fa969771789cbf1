<?php
declare(strict_types=1);

namespace Lifeline\Cli;

/** The admin listener of a server: `host:port`, `http://host:port` or `unix:///path`. */
final class Admin
{
    /** Seconds for one answer. */
    private const PATIENCE = 5;
    private const LARGEST = 16 << 20;

    private string $socket;

    public function __construct(public readonly string $address)
    {
        $this->socket = match (true) {
            str_starts_with($address, 'unix:///') => $address,
            (bool) preg_match('~^(?:http://)?((?:[\w.-]+|\[[0-9a-fA-F:.]+\]):\d{1,5})/?$~', $address, $match) => "tcp://$match[1]",
            default => throw new Failure("the admin address must be 'host:port' or 'unix:///path', '$address' given", Failure::USAGE),
        };
    }

    /** @return array<string, mixed> */
    public function get(string $target): array
    {
        set_error_handler(static fn (): bool => true);
        try {
            $stream = stream_socket_client($this->socket, $code, $message, self::PATIENCE);
        } finally {
            restore_error_handler();
        }
        if (!$stream) {
            throw new Failure("nothing answers on $this->address ($message): is the server running, with that as its option 'admin'?");
        }
        stream_set_timeout($stream, self::PATIENCE);
        fwrite($stream, "GET $target HTTP/1.0\r\nHost: localhost\r\n\r\n");
        $answer = (string) stream_get_contents($stream, self::LARGEST);
        $late = stream_get_meta_data($stream)['timed_out'];
        fclose($stream);
        if ($late) {
            throw new Failure("$this->address has not answered within " . self::PATIENCE . ' s');
        }
        [$head, $body] = explode("\r\n\r\n", $answer, 2) + [1 => ''];
        $status = (int) (explode(' ', $head, 3)[1] ?? 0);
        $told = json_decode($body, true);
        if ($status !== 200 || !is_array($told)) {
            $what = $status ? "answered $status: " . strtok($body . "\n", "\n") : 'is no HTTP server';
            throw new Failure("$this->address is not the admin listener of a lifeline server: it $what");
        }
        return $told;
    }
}
