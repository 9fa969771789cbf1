<?php
// Shared by the scripts: one JSON object a line on stdout, with the name of the event and the time.

declare(strict_types=1);

function say(string $event, array $fields = []): void
{
    fwrite(STDOUT, json_encode(['event' => $event, 't' => microtime(true)] + $fields, JSON_THROW_ON_ERROR) . "\n");
}

function config(): array
{
    return json_decode($_SERVER['argv'][1] ?? '{}', true, flags: JSON_THROW_ON_ERROR);
}
