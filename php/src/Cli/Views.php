<?php
declare(strict_types=1);

namespace Lifeline\Cli;

/** What is shown of a server: each returns the text of one look. */
final class Views
{
    /** Fewer than this many seconds say nothing of a rate. */
    private const LEAST = 0.5;

    /** @param array<string, mixed> $told what /status.json says */
    public static function status(array $told): string
    {
        $s = $told['stats'];
        $rate = self::rates($told);
        $lines = [
            'server' => self::word($told) . ', ' . implode(' ', $told['addresses']),
            'process' => "$told[pid], up " . Text::time($s['uptime']) . ", lifeline $told[version]",
            'connections' => Text::count($s['connections']['open']) . ' open, ' . Text::count($s['connections']['handshaking']) . ' in handshake, limit ' . Text::count($s['connections']['limit']),
            'messages' => Text::count($s['messages']['in']) . ' in (' . Text::count($rate('messages.in')) . '/s), ' . Text::count($s['messages']['out']) . ' out (' . Text::count($rate('messages.out')) . '/s), ' . Text::count($s['messages']['dropped']) . ' dropped',
            'bytes' => Text::bytes($s['bytes']['in']) . ' in (' . Text::bytes($rate('bytes.in')) . '/s), ' . Text::bytes($s['bytes']['out']) . ' out (' . Text::bytes($rate('bytes.out')) . '/s)',
            'php' => Text::time($s['watchdog']['lag']) . ' behind, ' . Text::count($s['watchdog']['eventsWaiting']) . ' events wait',
            'round trips' => $s['rtt']['measured'] ? Text::time($s['rtt']['median']) . ' median, ' . Text::time($s['rtt']['high']) . ' at 95 of 100' : 'none measured',
            'sessions' => Text::count($s['sessions']['count']) . ', ' . Text::count($s['sessions']['connected']) . ' connected, ' . Text::count($s['sessions']['gaps']) . ' gaps',
            'channels' => Text::count($s['channels']) . ', ' . Text::count($s['users']) . ' users',
            'memory' => Text::bytes($s['memory']['used']) . ' of messages, limit ' . Text::bytes($s['memory']['limit']),
        ];
        $workers = $s['workers'] ?? null;
        if ($workers) {
            $lines['workers'] = self::workersLine($workers);
        }
        $out = '';
        foreach ($lines as $name => $line) {
            $out .= str_pad($name, 13) . "$line\n";
        }
        return $workers ? $out . "\n" . self::workers($workers['list']) : $out;
    }

    /** @param array<string, mixed> $workers */
    private static function workersLine(array $workers): string
    {
        $serving = count(array_filter($workers['list'], static fn (array $worker): bool => $worker['state'] === 'serving'));
        $line = "$serving of $workers[count] serve, generation $workers[generation]";
        foreach (['reloads' => '; reloads', 'failedReloads' => ', failed', 'crashes' => '; crashes', 'recycled' => ', recycled', 'lost' => '; messages lost'] as $key => $name) {
            $line .= "$name " . Text::count($workers[$key]);
        }
        return $workers['lastError'] === null ? $line : "$line\n" . str_pad('', 13) . 'last error: ' . Text::harmless($workers['lastError']);
    }

    /** @param list<array<string, mixed>> $list */
    private static function workers(array $list): string
    {
        // The one that leaves before the one that follows it.
        usort($list, static fn (array $a, array $b): int => [$a['number'], $b['uptime']] <=> [$b['number'], $a['uptime']]);
        $rows = array_map(static fn (array $w): array => [
            (string) $w['number'], (string) $w['pid'], $w['state'], Text::count($w['connections']), Text::count($w['messages']),
            Text::time($w['lag']), Text::bytes($w['memory']), Text::time($w['uptime']),
        ], $list);
        return Text::table(['>worker', '>process', 'state', '>connections', '>messages', '>behind', '>memory', '>up'], $rows);
    }

    /** @param array<string, mixed> $told */
    public static function word(array $told): string
    {
        return $told['ready'] ? 'ready' : ($told['stopping'] ? 'stopping' : 'not ready');
    }

    /** @param list<array<string, mixed>> $connections of /connections.json */
    public static function connections(array $connections, int $total): string
    {
        $rows = array_map(static fn (array $c): array => [
            (string) $c['id'], Text::harmless($c['remote']), Text::harmless($c['path']), Text::harmless($c['user'] ?? '-'), Text::time($c['age']), Text::time($c['rtt']),
            Text::bytes($c['bytesIn']), Text::bytes($c['bytesOut']), Text::bytes($c['buffered']),
        ], $connections);
        $shown = count($rows) < $total ? Text::count(count($rows)) . ' of ' . Text::count($total) : Text::count($total);
        $head = "$shown connection" . ($total === 1 ? '' : 's') . "\n";
        return $rows === [] ? $head : $head . Text::table(['>id', 'from', 'path', 'user', '>age', '>round trip', '>in', '>out', '>waiting'], $rows);
    }

    /** @param array<string, mixed> $told */
    public static function top(array $told, int $width): string
    {
        $out = self::status($told) . "\n";
        $minutes = round($told['history']['every'] * min($width - 24, count($told['history']['samples'])) / 60, 1);
        foreach (['connections.open' => 'connections', 'messages.in' => 'messages in/s', 'messages.out' => 'messages out/s', 'watchdog.lag' => 'PHP behind', 'rtt.median' => 'round trip'] as $path => $name) {
            $out .= str_pad($name, 16) . Text::bars(self::series($told, $path), max(10, $width - 18)) . "\n";
        }
        return $out . "the last $minutes min\n";
    }

    /** One line of `top` where there is no terminal; without figures, the names of its columns. */
    public static function line(?array $told): string
    {
        $columns = ['connections' => 11, 'in/s' => 9, 'out/s' => 9, 'behind' => 9, 'rtt' => 9, 'memory' => 10];
        $rate = $told ? self::rates($told) : null;
        $cells = $told ? [
            Text::count($told['stats']['connections']['open']), Text::count($rate('messages.in')), Text::count($rate('messages.out')),
            Text::time($told['stats']['watchdog']['lag']), Text::time($told['stats']['rtt']['measured'] ? $told['stats']['rtt']['median'] : null),
            Text::bytes($told['stats']['memory']['used']),
        ] : array_keys($columns);
        $out = '';
        foreach (array_values($columns) as $at => $width) {
            $out .= str_repeat(' ', max(1, $width - Text::width($cells[$at]))) . $cells[$at];
        }
        return "$out\n";
    }

    /** Growth a second of a figure, over the last samples. */
    private static function rates(array $told): \Closure
    {
        return static function (string $path) use ($told): float {
            $values = self::series($told, $path);
            return $values === [] ? 0.0 : (float) end($values);
        };
    }

    /**
     * The values of a field of the samples; of a counter, its growth a second.
     *
     * @return list<float>
     */
    private static function series(array $told, string $path): array
    {
        ['fields' => $fields, 'samples' => $samples] = $told['history'];
        $at = array_search($path, $fields, true);
        if (!str_starts_with($path, 'messages.') && !str_starts_with($path, 'bytes.')) {
            return array_map(static fn (array $sample): float => (float) $sample[$at], $samples);
        }
        $rates = [];
        for ($index = 1; $index < count($samples); $index++) {
            $span = $samples[$index][0] - $samples[$index - 1][0];
            $rates[] = $span < self::LEAST ? 0.0 : ($samples[$index][$at] - $samples[$index - 1][$at]) / $span;
        }
        return $rates;
    }
}
