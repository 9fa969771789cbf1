<?php
declare(strict_types=1);

namespace Lifeline\Cli;

/** The command line of vendor/bin/lifeline. */
final class Program
{
    private const USAGE = <<<'TEXT'
        Looks at a running server through its option 'admin', and starts and stops its script.

          lifeline status                 how it is; ends with 0 when it is ready, 3 when it is not, 1 when nothing answers
          lifeline connections [--watch]  open connections
          lifeline top                    how it goes, until Ctrl+C; a line each time where there is no terminal
          lifeline start SCRIPT [ARG...]  runs it here; with --daemon in the background, once it is ready
          lifeline stop                   asks what 'start' has started to end (SIGTERM), and waits until it has
          lifeline reload                 has a server with workers start new ones on the new code (SIGUSR1), and waits until they
                                          have taken over; where they do not start it says why, and the old ones go on
          lifeline help

        Options of 'start' stand before the script; what stands behind it is the script's.

          --admin=ADDRESS    host:port or unix:///path (default: the configuration's, else 127.0.0.1:9090)
          --config=FILE      a .json file, or a .php file that returns an array (default: lifeline.php or lifeline.json
                             here, if there is one), with any of: script, admin, pidFile, log, timeout
          --json             status, connections: as the server tells it
          --limit=N          connections: so many (default 100, 0: all)
          --interval=SECONDS connections --watch, top: between two looks (default 2)
          --count=N          the same: so many looks, then the end
          --daemon           start: in the background
          --pid-file=FILE    start, stop, reload (default with --daemon, of stop, and of reload where it is there:
                             lifeline.pid here)
          --log=FILE         start --daemon: what the script writes (default lifeline.log here)
          --timeout=SECONDS  start --daemon, stop, reload: how long to wait (default 30)
          --force            stop: SIGKILL when the time is over

        TEXT;

    /** Options and whether they take a value; settings of a configuration file are named alike. */
    private const OPTIONS = [
        'admin' => true, 'config' => true, 'json' => false, 'limit' => true, 'interval' => true, 'count' => true, 'watch' => false,
        'daemon' => false, 'pid-file' => true, 'log' => true, 'timeout' => true, 'force' => false, 'help' => false,
    ];
    private const SETTINGS = ['script', 'admin', 'pidFile', 'log', 'timeout'];
    /** What each command takes beside --config and --help. */
    private const COMMANDS = [
        'status' => ['admin', 'json'],
        'connections' => ['admin', 'json', 'limit', 'watch', 'interval', 'count'],
        'top' => ['admin', 'interval', 'count'],
        'start' => ['daemon', 'pid-file', 'log', 'timeout'],
        'stop' => ['pid-file', 'timeout', 'force'],
        'reload' => ['admin', 'pid-file', 'timeout'],
        'help' => [],
    ];

    /** @var array<string, string|true> */
    private array $given = [];
    /** @var list<string> */
    private array $words = [];
    /** @var array<string, mixed> */
    private array $settings = [];
    private string $folder = '.';

    /** @param list<string> $argv */
    public function __construct(private readonly array $argv)
    {
    }

    /** @return int|list<string> the status to end with; or the script to run, and its arguments */
    public function run(): int|array
    {
        try {
            $command = $this->parse();
            return match ($command) {
                'help' => $this->help(),
                'status' => $this->status(),
                'connections' => $this->connections(),
                'top' => $this->top(),
                'start' => $this->start(),
                'stop' => $this->stop(),
                'reload' => $this->reload(),
            };
        } catch (Failure $failure) {
            fwrite(STDERR, 'lifeline: ' . $failure->getMessage() . "\n");
            return $failure->getCode();
        }
    }

    private function parse(): string
    {
        $words = array_slice($this->argv, 1);
        while ($words !== []) {
            $word = array_shift($words);
            if ($word === '--') {
                array_push($this->words, ...$words);
                break;
            }
            if (!str_starts_with($word, '-') || $word === '-') {
                $this->words[] = $word;
                // What stands behind a script is the script's.
                if (count($this->words) === 2 && $this->words[0] === 'start') {
                    array_push($this->words, ...$words);
                    break;
                }
                continue;
            }
            [$name, $value] = explode('=', ltrim($word, '-'), 2) + [1 => null];
            $name = $word === '-h' ? 'help' : $name;
            if (!isset(self::OPTIONS[$name])) {
                throw new Failure("there is no option '$word'; try 'lifeline help'", Failure::USAGE);
            }
            if (self::OPTIONS[$name] && $value === null) {
                $value = array_shift($words) ?? throw new Failure("the option --$name needs a value", Failure::USAGE);
            } elseif (!self::OPTIONS[$name] && $value !== null) {
                throw new Failure("the option --$name takes no value", Failure::USAGE);
            }
            $this->given[$name] = $value ?? true;
        }
        $command = isset($this->given['help']) ? 'help' : array_shift($this->words) ?? 'help';
        if (!isset(self::COMMANDS[$command])) {
            throw new Failure("there is no command '$command'; try 'lifeline help'", Failure::USAGE);
        }
        foreach (array_keys($this->given) as $name) {
            if (!in_array($name, [...self::COMMANDS[$command], 'config', 'help'], true)) {
                throw new Failure("'$command' does not take --$name; try 'lifeline help'", Failure::USAGE);
            }
        }
        if ($this->words !== [] && $command !== 'start') {
            throw new Failure("'$command' takes no '{$this->words[0]}'; try 'lifeline help'", Failure::USAGE);
        }
        if ($command !== 'help') {
            $this->configure();
        }
        return $command;
    }

    private function configure(): void
    {
        $file = $this->given['config'] ?? (is_file('lifeline.php') ? 'lifeline.php' : (is_file('lifeline.json') ? 'lifeline.json' : null));
        if ($file === null) {
            return;
        }
        if (!is_file($file)) {
            throw new Failure("there is no configuration file '$file'");
        }
        if (str_ends_with($file, '.php')) {
            $settings = (static fn () => require realpath($file))();
        } else {
            $settings = json_decode((string) file_get_contents($file), true);
        }
        if (!is_array($settings)) {
            throw new Failure("$file must " . (str_ends_with($file, '.php') ? 'return an array' : 'be a JSON object'));
        }
        foreach ($settings as $name => $value) {
            if (!in_array($name, self::SETTINGS, true)) {
                throw new Failure("$file: there is no setting '$name', there are " . implode(', ', self::SETTINGS));
            }
            if (!is_string($value) && !($name === 'timeout' && (is_int($value) || is_float($value)))) {
                throw new Failure("$file: '$name' must be a " . ($name === 'timeout' ? 'number' : 'string') . ', ' . get_debug_type($value) . ' given');
            }
        }
        $this->settings = $settings;
        // Its paths are beside it.
        $this->folder = dirname((string) realpath($file));
    }

    private function help(): int
    {
        fwrite(STDOUT, self::USAGE);
        return 0;
    }

    private function status(): int
    {
        $told = $this->admin()->get('/status.json');
        fwrite(STDOUT, isset($this->given['json']) ? self::json($told) : Views::status($told));
        return $told['ready'] ? 0 : Failure::NOT_READY;
    }

    private function connections(): int
    {
        $limit = (int) $this->number('limit', 100, 0);
        return $this->looks(isset($this->given['watch']), function () use ($limit): string {
            ['connections' => $connections, 'total' => $total] = $this->listed($limit);
            return isset($this->given['json']) ? self::json(['total' => $total, 'connections' => $connections]) : Views::connections($connections, $total);
        });
    }

    /** Page by page, as the server bounds each. */
    private function listed(int $limit): array
    {
        $admin = $this->admin();
        $connections = [];
        $after = 0;
        do {
            $wanted = $limit === 0 ? 1000 : min(1000, $limit - count($connections));
            $told = $admin->get("/connections.json?limit=$wanted&after=$after");
            array_push($connections, ...$told['connections']);
            $after = $told['next'];
        } while ($after !== null && ($limit === 0 || count($connections) < $limit));
        return ['connections' => $connections, 'total' => $told['total']];
    }

    private function top(): int
    {
        $admin = $this->admin();
        if (stream_isatty(STDOUT)) {
            return $this->looks(true, fn (): string => Views::top($admin->get('/status.json'), (int) (getenv('COLUMNS') ?: 80)));
        }
        fwrite(STDOUT, Views::line(null));
        return $this->looks(true, fn (): string => Views::line($admin->get('/status.json')));
    }

    /** @param \Closure(): string $look */
    private function looks(bool $again, \Closure $look): int
    {
        $interval = $this->number('interval', 2, 0.1);
        $count = $this->number('count', $again ? INF : 1, 1);
        for ($seen = 1;; $seen++) {
            $text = $look();
            fwrite(STDOUT, $again && stream_isatty(STDOUT) ? "\e[H\e[J$text" : $text);
            if ($seen >= $count) {
                return 0;
            }
            usleep((int) ($interval * 1e6));
        }
    }

    /** @return int|list<string> */
    private function start(): int|array
    {
        $words = $this->words;
        $script = array_shift($words) ?? (isset($this->settings['script']) ? $this->path($this->settings['script']) : null);
        if ($script === null) {
            throw new Failure("'start' needs a script, or a configuration file with 'script'", Failure::USAGE);
        }
        if (!is_file($script) || !is_readable($script)) {
            throw new Failure("there is no script '$script' that can be read");
        }
        $process = new Process($this->pidFile(isset($this->given['daemon'])));
        $script = (string) realpath($script);
        if (isset($this->given['daemon'])) {
            $log = (string) ($this->given['log'] ?? (isset($this->settings['log']) ? $this->path($this->settings['log']) : 'lifeline.log'));
            fwrite(STDOUT, $process->daemon([$script, ...$words], $log, $this->timeout()) . "\n");
            return 0;
        }
        if (isset($this->given['log']) || isset($this->given['timeout'])) {
            throw new Failure('--log and --timeout are for --daemon', Failure::USAGE);
        }
        return $process->here([$script, ...$words]);
    }

    private function stop(): int
    {
        fwrite(STDOUT, (new Process($this->pidFile(true)))->stop($this->timeout(), isset($this->given['force'])) . "\n");
        return 0;
    }

    private function reload(): int
    {
        $admin = $this->admin();
        $timeout = $this->timeout();
        $told = $admin->get('/status.json');
        $before = $told['stats']['workers'] ?? null;
        if (!$before) {
            throw new Failure("the server of $admin->address has no workers (option 'workers'): new code needs a restart");
        }
        $file = $this->pidFile(false) ?? (is_file('lifeline.pid') ? 'lifeline.pid' : null);
        (new Process($file))->reload((int) $told['pid'], $admin->address);
        $began = microtime(true);
        do {
            usleep(50_000);
            $told = $admin->get('/status.json');
            $now = $told['stats']['workers'];
            if ($now['failedReloads'] > $before['failedReloads']) {
                throw new Failure("not reloaded, the old workers go on: $now[lastError]");
            }
            // The old ones may still have connections; what is new goes to the new ones from now on.
            if ($now['reloads'] > $before['reloads']) {
                fwrite(STDOUT, sprintf("reloaded: generation %d, %d workers, after %.1f s\n", $now['generation'], $now['count'], microtime(true) - $began));
                return 0;
            }
        } while (microtime(true) < $began + $timeout);
        throw new Failure("the new workers have not started within $timeout s, the old ones go on; see the server's log");
    }

    private function admin(): Admin
    {
        return new Admin((string) ($this->given['admin'] ?? $this->settings['admin'] ?? '127.0.0.1:9090'));
    }

    private function pidFile(bool $needed): ?string
    {
        return $this->given['pid-file'] ?? (isset($this->settings['pidFile']) ? $this->path($this->settings['pidFile']) : ($needed ? 'lifeline.pid' : null));
    }

    private function timeout(): float
    {
        return $this->number('timeout', (float) ($this->settings['timeout'] ?? 30), 0);
    }

    private function number(string $name, float $default, float $least): float
    {
        $given = $this->given[$name] ?? null;
        if ($given === null) {
            return $default;
        }
        if (!is_numeric($given) || $given < $least) {
            throw new Failure("--$name must be a number from $least, '$given' given", Failure::USAGE);
        }
        return (float) $given;
    }

    private function path(string $path): string
    {
        return str_starts_with($path, '/') ? $path : "$this->folder/$path";
    }

    private static function json(array $told): string
    {
        return json_encode($told, JSON_THROW_ON_ERROR | JSON_PRETTY_PRINT | JSON_UNESCAPED_SLASHES | JSON_UNESCAPED_UNICODE | JSON_PRESERVE_ZERO_FRACTION) . "\n";
    }
}
