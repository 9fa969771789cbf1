<?php
// Arrays of options that nobody would write: new WsServer and new WsClient take them or throw a ValueError or a
// TypeError that can be shown and logged; nothing else, and nothing is lost.
//
//     php -d extension=lifeline.so fuzz/options.php [FIRST [COUNT]]     seeds; COUNT 0: for FUZZ_SECONDS
//
// An array is made of its seed alone: what failed is played again with its seed and COUNT 1. Nothing is started.
declare(strict_types=1);

const OPTIONS = __DIR__ . '/../docs/options.md';

/** The dotted names in the documentation's tables: a row may name several, with what they share left out. */
function documented(): array
{
    $names = [];
    foreach (file(OPTIONS) as $line) {
        if (!preg_match('~^\| (`.*?) \| [SC]+ \|~', $line, $row)) {
            continue;
        }
        preg_match_all('~`([^`]+)`~', $row[1], $found);
        $group = '';
        foreach ($found[1] as $name) {
            if ($name[0] === '.') {
                $name = $group . $name;
            } else {
                $group = explode('.', $name)[0];
            }
            $names[] = $name;
        }
    }
    return $names;
}

final class Maker
{
    private Random\Randomizer $random;

    public function __construct(int $seed, private array $names, private array $words)
    {
        $this->random = new Random\Randomizer(new Random\Engine\Xoshiro256StarStar($seed));
    }

    public function one(array $among): mixed
    {
        return $among[$this->random->getInt(0, count($among) - 1)];
    }

    private function chance(int $of): bool
    {
        return $this->random->getInt(1, $of) === 1;
    }

    public function text(): string
    {
        $text = match ($this->random->getInt(0, 9)) {
            0 => '',
            1 => $this->random->getBytes($this->random->getInt(1, 40)),
            2 => str_repeat($this->one(['a', "\u{1F600}", '/', '%', ' ', "\xFF"]), $this->random->getInt(1, 5000)),
            3 => $this->one(["a\r\nInjected: 1", "a\0b", "\e[31m", "\u{202E}", '../../..', 'null', '0', '-1', '1e9', 'NaN']),
            4 => $this->one(['ws://', 'wss://', 'unix://', 'http://', 'systemd:', 'file://']) . $this->one([
                '', ':', 'localhost', '127.0.0.1:0', '[::1]:99999', '[', 'a@b:1', '/' . str_repeat('x', 200), "\u{E9}:80", '0x7f.1:-1',
                'user:secret@host:65536/a?b#c', '%00', '*:80',
            ]),
            default => $this->one($this->words),
        };
        // One typo.
        if ($text !== '' && $this->chance(6)) {
            $text[$this->random->getInt(0, strlen($text) - 1)] = $this->random->getBytes(1);
        }
        return $text;
    }

    public function value(int $depth = 4): mixed
    {
        return match ($this->random->getInt(0, $depth > 0 ? 14 : 9)) {
            0 => null,
            1 => $this->chance(2),
            2 => $this->random->getInt(-3, 100),
            3 => $this->one([PHP_INT_MAX, PHP_INT_MIN, 0, -1, 65535, 65536, 1 << 31, (1 << 32) - 1, 1 << 32, 1 << 53, 1000, 4999]),
            4 => $this->one([0.0, -0.0, 0.5, 1e-9, 1e9, 1e18, 1e300, -1e300, NAN, INF, -INF, PHP_FLOAT_EPSILON, 4.9e-324]),
            5, 6, 7 => $this->text(),
            8 => $this->one([new stdClass(), WsState::Closed, new ArrayObject([1]), fn () => 1, 'strlen', STDIN, new class () {
                public function __toString(): string
                {
                    throw new LogicException('nobody asked for this text');
                }
            }]),
            9 => [],
            10, 11 => array_map(fn () => $this->value($depth - 1), range(0, $this->random->getInt(0, 4))),
            12, 13 => $this->map($depth - 1),
            14 => $this->twisted($depth - 1),
        };
    }

    private function key(): int|string
    {
        return match ($this->random->getInt(0, 3)) {
            0 => $this->random->getInt(-2, 5),
            // Names are told; nobody has secrets there.
            1 => str_replace('secret', 'public', $this->text()),
            default => $this->one(explode('.', $this->one($this->names))),
        };
    }

    private function map(int $depth): array
    {
        $map = [];
        for ($count = $this->random->getInt(1, 4); $count > 0; $count--) {
            $map[$this->key()] = $this->value($depth);
        }
        return $map;
    }

    /** References, to itself too, and holes. */
    private function twisted(int $depth): array
    {
        $array = [1, 2, 3, $this->value($depth)];
        $array[] = &$array[0];
        if ($this->chance(3)) {
            $array['self'] = &$array;
        }
        if ($this->chance(2)) {
            unset($array[$this->random->getInt(0, 2)]);
        }
        return $array;
    }

    /** Mostly options that there are, in their place; what else is in the array must not hide them. */
    public function options(): array
    {
        $options = [];
        for ($count = $this->random->getInt(0, 6); $count > 0; $count--) {
            $place = &$options;
            foreach (explode('.', $this->chance(8) ? $this->one($this->names) . '.' . $this->text() : $this->one($this->names)) as $part) {
                if (!is_array($place)) {
                    $place = [];
                }
                $place = &$place[$part];
            }
            $place = $this->plausible();
            unset($place);
        }
        if ($this->chance(5)) {
            $options[$this->key()] = $this->value();
        }
        return $options;
    }

    private function plausible(): mixed
    {
        return match ($this->random->getInt(0, 5)) {
            0 => $this->random->getInt(0, 100),
            1 => $this->random->getInt(1, 1000) / 10,
            2 => $this->chance(2),
            3 => $this->one($this->words),
            default => $this->value(),
        };
    }
}

/** What is wrong with how the options were taken; null: nothing. */
function trial(int $seed, array $names, array $words, array &$tally): ?string
{
    $maker = new Maker($seed, $names, $words);
    [$class, $url] = $maker->one([[WsServer::class, 'ws://127.0.0.1:0'], [WsClient::class, 'ws://127.0.0.1:1/']]);
    $first = $maker->one([$url, $url, $url, $url, $maker->text(), [$url, $maker->text()], []]);
    $options = $maker->options();
    try {
        $object = new $class($first, $options);
        $what = 'taken';
        unset($object);
    } catch (ValueError | TypeError $error) {
        $what = get_class($error);
        $message = $error->getMessage();
        if ($message === '' || strlen($message) > 4096) {
            return sprintf('a message of %d bytes', strlen($message));
        }
        if (preg_match('~[\x00-\x08\x0A-\x1F\x7F]~', $message)) {
            return 'a control character in: ' . addcslashes($message, "\0..\37\177");
        }
        if (!preg_match('~~u', $message)) {
            return 'a message that is not UTF-8: ' . addcslashes($message, "\0..\37\177..\377");
        }
        // Where a typo has taken the '@', nothing tells a password from the rest.
        if (preg_match('~secret(?!(.|\\\\u\{\w+\}|\\\\.)host)|secret@~su', $message)) {
            return "a secret in: $message";
        }
    } catch (Throwable $error) {
        return get_class($error) . ': ' . $error->getMessage();
    }
    $tally[$what] = ($tally[$what] ?? 0) + 1;
    return null;
}

function trials(int $first, int $count, float $seconds = 0): array
{
    set_error_handler(function (int $level, string $message): never {
        throw new ErrorException($message, severity: $level);
    });
    // Those that name a place on disk or what is looked up there are left to the tests of their own.
    $names = array_values(array_filter(documented(), fn (string $name) => !in_array($name, ['outbox.path', 'logger'], true)));
    // What the documentation puts in the place of values, for values.
    preg_match_all('~`([^`|]{1,40})`~', file_get_contents(OPTIONS), $found);
    $words = array_values(array_unique($found[1]));
    $tally = $failures = [];
    $until = microtime(true) + $seconds;
    for ($seed = $first; $count > 0 ? $seed < $first + $count : microtime(true) < $until; $seed++) {
        $what = trial($seed, $names, $words, $tally);
        if ($what !== null) {
            $failures[$seed] = $what;
        }
        if ($seed - $first === 200) {
            gc_collect_cycles();
            $before = memory_get_usage();
        }
    }
    restore_error_handler();
    gc_collect_cycles();
    return [$tally, $failures, isset($before) ? memory_get_usage() - $before : 0, $seed - $first];
}

if (isset($argv) && realpath($argv[0]) === __FILE__) {
    [$tally, $failures, $grown, $count] = trials((int) ($argv[1] ?? 1), (int) ($argv[2] ?? 0), (float) (getenv('FUZZ_SECONDS') ?: 10));
    foreach ($failures as $seed => $what) {
        echo "FAIL  seed $seed: $what\n";
    }
    echo "options: $count arrays, ", json_encode($tally), ", memory grew by $grown bytes\n";
    exit($failures || $grown > 100_000 ? 1 : 0);
}
