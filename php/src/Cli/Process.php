<?php
declare(strict_types=1);

namespace Lifeline\Cli;

/** A script as a process, and the file that has its id. */
final class Process
{
    /** Between two looks at a process. */
    private const PAUSE = 20_000;

    public function __construct(private readonly ?string $pidFile)
    {
    }

    /**
     * Runs it in place of this program, under the same process id, so that signals and service managers reach it.
     *
     * @param non-empty-list<string> $command the script and its arguments
     * @return non-empty-list<string> to be run by the caller, where PHP lacks pcntl_exec()
     */
    public function here(array $command): array
    {
        $this->write(getmypid());
        if (!function_exists('pcntl_exec')) {
            return $command;
        }
        [$php, $arguments] = [PHP_BINARY, [...self::options(), ...$command]];
        pcntl_exec($php, $arguments);
        throw new Failure("cannot run $php: " . pcntl_strerror(pcntl_get_last_error()));
    }

    /**
     * Runs it in the background, in a session of its own; returns when its server listens.
     *
     * @param non-empty-list<string> $command
     */
    public function daemon(array $command, string $log, float $timeout): string
    {
        if ($running = $this->running()) {
            throw new Failure("it runs already, as process $running ($this->pidFile)");
        }
        // It is told as a service manager would be: sd_notify(3).
        $folder = self::folder();
        $notify = stream_socket_server("udg://$folder/notify", $code, $message, STREAM_SERVER_BIND);
        try {
            if (!$notify) {
                throw new Failure("cannot listen in $folder: $message");
            }
            stream_set_blocking($notify, false);
            $start = is_file($log) ? (int) filesize($log) : 0;
            $files = [['file', '/dev/null', 'r'], ['file', $log, 'a'], ['file', $log, 'a']];
            set_error_handler(static fn (): bool => true);
            $child = proc_open(['setsid', PHP_BINARY, ...self::options(), ...$command], $files, $pipes, null, ['NOTIFY_SOCKET' => "$folder/notify"] + getenv());
            restore_error_handler();
            if (!$child) {
                throw new Failure("cannot start it with its output in '$log': " . (error_get_last()['message'] ?? 'is setsid there?'));
            }
            $pid = proc_get_status($child)['pid'];
            $this->write($pid);
            $end = microtime(true) + $timeout;
            for (;;) {
                if (str_contains((string) fread($notify, 4096), 'READY=1')) {
                    return "ready, as process $pid";
                }
                if (!proc_get_status($child)['running']) {
                    @unlink($this->pidFile);
                    $said = trim((string) file_get_contents($log, false, null, $start));
                    throw new Failure("it has ended before it was ready ($log)" . ($said === '' ? '' : ":\n$said"));
                }
                if (microtime(true) > $end) {
                    throw new Failure("it runs as process $pid, but no server listens after $timeout s; see $log");
                }
                usleep(self::PAUSE);
            }
        } finally {
            @unlink("$folder/notify");
            @rmdir($folder);
        }
    }

    /** Asks it to end, and waits. */
    public function stop(float $timeout, bool $force): string
    {
        $pid = $this->running();
        if (!$pid) {
            throw new Failure("it does not run: " . (is_file($this->pidFile) ? "the process of $this->pidFile has ended" : "there is no $this->pidFile"));
        }
        $began = microtime(true);
        self::signal($pid, 15);
        if (!$this->ends($began + $timeout)) {
            if (!$force) {
                throw new Failure("process $pid has not ended within $timeout s; it may still drain, --force kills it");
            }
            self::signal($pid, 9);
            if (!$this->ends(microtime(true) + 5)) {
                throw new Failure("process $pid does not end");
            }
        }
        @unlink($this->pidFile);
        return sprintf('ended after %.1f s', microtime(true) - $began);
    }

    /** Tells process `$pid`, which has answered on `$admin`, that there is new code; or fails where that is another than the file's. */
    public function reload(int $pid, string $admin): void
    {
        $running = $this->pidFile === null ? null : $this->running();
        if ($running !== null && $running !== $pid) {
            throw new Failure("process $pid answers on $admin, but process $running is that of $this->pidFile: which is meant?");
        }
        // Behind the address may be another machine or container: to any other program the signal is its end.
        $program = basename((string) @readlink("/proc/$pid/exe"));
        if (!str_starts_with($program, 'php') && $program !== basename((string) realpath(PHP_BINARY))) {
            throw new Failure("the server of $admin says that it is process $pid, which is " . ($program === '' ? 'none of this user here' : "'$program' here"));
        }
        self::signal($pid, defined('SIGUSR1') ? SIGUSR1 : 10);
    }

    private function ends(float $end): bool
    {
        while ($this->running()) {
            if (microtime(true) > $end) {
                return false;
            }
            usleep(self::PAUSE);
        }
        return true;
    }

    /** The process of the file, while it lives; null too when its id has become another's. */
    private function running(): ?int
    {
        $lines = is_file($this->pidFile) ? file($this->pidFile, FILE_IGNORE_NEW_LINES) : [];
        $pid = (int) ($lines[0] ?? 0);
        [$state, $born] = $pid > 0 ? self::look($pid) : [null, null];
        $same = !isset($lines[1]) || $lines[1] === $born;
        return $state !== null && $state !== 'Z' && $same ? $pid : null;
    }

    private function write(int $pid): void
    {
        if ($this->pidFile === null) {
            return;
        }
        if ($running = $this->running()) {
            throw new Failure("it runs already, as process $running ($this->pidFile)");
        }
        [, $born] = self::look($pid);
        if (@file_put_contents($this->pidFile, "$pid\n$born\n") === false) {
            throw new Failure("cannot write the file '$this->pidFile': " . (error_get_last()['message'] ?? ''));
        }
    }

    /** @return array{?string, ?string} state and time of birth (proc_pid_stat(5)) */
    private static function look(int $pid): array
    {
        $stat = @file_get_contents("/proc/$pid/stat");
        if ($stat === false) {
            return [null, null];
        }
        // Its name, in parentheses, may have anything in it.
        $fields = explode(' ', substr($stat, (int) strrpos($stat, ')') + 2));
        return [$fields[0], $fields[19]];
    }

    private static function signal(int $pid, int $signal): void
    {
        if (function_exists('posix_kill')) {
            $sent = posix_kill($pid, $signal);
        } else {
            $kill = proc_open(['kill', "-$signal", (string) $pid], [2 => ['file', '/dev/null', 'w']], $pipes);
            $sent = $kill && proc_close($kill) === 0;
        }
        if (!$sent && self::look($pid)[0] !== null) {
            throw new Failure("process $pid may not be signalled: it is another user's");
        }
    }

    /** What this PHP was given before this program: -d, -c, -n … @return list<string> */
    private static function options(): array
    {
        $line = explode("\0", rtrim((string) file_get_contents('/proc/self/cmdline'), "\0"));
        $at = array_search($_SERVER['argv'][0], $line, true);
        return $at > 1 ? array_slice($line, 1, $at - 1) : [];
    }

    private static function folder(): string
    {
        $folder = sys_get_temp_dir() . '/lifeline-' . bin2hex(random_bytes(8));
        if (!@mkdir($folder, 0700)) {
            throw new Failure("cannot make the directory '$folder'");
        }
        return $folder;
    }
}
