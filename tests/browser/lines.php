<?php
// What the scripts share that are told and tell lines of JSON.
declare(strict_types=1);

function tell(string $event, array $more = []): void
{
    fwrite(STDOUT, json_encode(['event' => $event] + $more, JSON_THROW_ON_ERROR) . "\n");
}

/** Runs it, and $do for each line that comes, until stdin ends. */
function serve(WsServer|WsClient $it, callable $do): void
{
    stream_set_blocking(STDIN, false);
    $stream = $it->stream();
    $pending = '';
    while (true) {
        $read = [STDIN, $stream];
        $none = null;
        stream_select($read, $none, $none, 1);
        $chunk = (string) fread(STDIN, 65536);
        if ($chunk === '' && feof(STDIN)) {
            return;
        }
        $lines = explode("\n", $pending . $chunk);
        $pending = array_pop($lines);
        foreach ($lines as $line) {
            $do(json_decode($line, true, flags: JSON_THROW_ON_ERROR));
        }
        $it->tick();
    }
}
