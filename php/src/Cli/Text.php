<?php
declare(strict_types=1);

namespace Lifeline\Cli;

/** Figures and tables for people. */
final class Text
{
    private const BARS = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

    public static function count(int|float $value): string
    {
        return is_int($value) || $value >= 100 || floor($value) === $value ? number_format($value) : number_format($value, 1);
    }

    public static function bytes(int|float $value): string
    {
        $units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
        for ($unit = 0; $value >= 1024 && $unit < 4; $unit++) {
            $value /= 1024;
        }
        return ($unit === 0 || $value >= 100 ? number_format($value) : number_format($value, 1)) . " $units[$unit]";
    }

    public static function time(?float $seconds): string
    {
        return match (true) {
            $seconds === null => '-',
            $seconds < 0.001 => round($seconds * 1e6) . ' µs',
            $seconds < 1 => round($seconds * 1e3, $seconds < 0.1 ? 1 : 0) . ' ms',
            $seconds < 60 => round($seconds, 1) . ' s',
            $seconds < 3600 => intdiv((int) $seconds, 60) . ' min ' . (int) $seconds % 60 . ' s',
            $seconds < 86400 => intdiv((int) $seconds, 3600) . ' h ' . intdiv((int) $seconds, 60) % 60 . ' min',
            default => intdiv((int) $seconds, 86400) . ' d ' . intdiv((int) $seconds, 3600) % 24 . ' h',
        };
    }

    /** @param list<int|float> $values */
    public static function bars(array $values, int $width): string
    {
        $values = array_slice($values, -$width);
        $most = max([1e-9, ...$values]);
        return implode('', array_map(static fn ($value) => self::BARS[(int) round($value / $most * 7)], $values));
    }

    /**
     * Columns as wide as they need to be.
     *
     * @param list<string> $heads those with a leading '>' are of numbers, and end flush
     * @param list<list<string>> $rows
     */
    public static function table(array $heads, array $rows): string
    {
        $right = array_map(static fn ($head) => str_starts_with($head, '>'), $heads);
        $rows = [array_map(static fn ($head) => ltrim($head, '>'), $heads), ...$rows];
        $widths = array_map(static fn ($at) => max(array_map(self::width(...), array_column($rows, $at))), array_keys($heads));
        $out = '';
        foreach ($rows as $row) {
            $cells = [];
            foreach ($row as $at => $cell) {
                $pad = str_repeat(' ', $widths[$at] - self::width($cell));
                $cells[] = $right[$at] ? $pad . $cell : $cell . $pad;
            }
            $out .= rtrim(implode('  ', $cells)) . "\n";
        }
        return $out;
    }

    /** What peers send is shown, but never carried out by a terminal. */
    public static function harmless(string $text): string
    {
        return preg_replace('/[\x00-\x1F\x7F]|\xC2[\x80-\x9F]/', '?', $text) ?? '?';
    }

    /** In characters; without mbstring. */
    public static function width(string $text): int
    {
        return preg_match_all('/./us', $text) ?: strlen($text);
    }
}
