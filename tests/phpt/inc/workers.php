<?php
/** A server with workers in processes of its own, from a script that can be changed while it runs. */

require_once __DIR__ . '/ws.php';

/** In the server's script: runs it, and says where it listens. */
function run_site(WsServer $server): void
{
    $server->start();
    if (getenv('LIFELINE_WORKER') === false) {
        file_put_contents(dirname($_SERVER['SCRIPT_FILENAME']) . '/address.new', $server->address());
        rename(dirname($_SERVER['SCRIPT_FILENAME']) . '/address.new', dirname($_SERVER['SCRIPT_FILENAME']) . '/address');
    }
    $server->run();
}

/** In the server's script: one with workers, quiet but for what becomes of them. */
function site(array $options = []): WsServer
{
    return new WsServer('ws://127.0.0.1:0', $options + ['workers' => 2, 'logLevel' => 'notice']
        + (SLOW ? ['heartbeat' => ['interval' => 600], 'watchdog' => ['lag' => 600]] : []));
}

final class Site
{
    public readonly string $directory;
    public readonly int $pid;
    /** @var resource */
    private $process;
    private ?int $status = null;

    /** Runs $code, a script without its opening tag. */
    public function __construct(string $code, array $ini = [])
    {
        $this->directory = sys_get_temp_dir() . '/lifeline-site-' . bin2hex(random_bytes(6));
        mkdir($this->directory);
        $this->change($code);
        $command = [PHP_BINARY, '-d', 'display_errors=0', '-d', 'log_errors=1', '-d', 'html_errors=0',
            '-d', 'pcre.jit=' . ini_get('pcre.jit'), '-d', 'extension=' . (getenv('LIFELINE_EXTENSION') ?: extension_path())];
        foreach ($ini as $key => $value) {
            array_push($command, '-d', "$key=$value");
        }
        $command[] = "$this->directory/server.php";
        $log = ['file', "$this->directory/log", 'a'];
        $this->process = proc_open($command, [['file', '/dev/null', 'r'], $log, $log], $pipes);
        $this->pid = proc_get_status($this->process)['pid'];
    }

    public function __destruct()
    {
        if ($this->running()) {
            // Workers outlive their gateway for a moment, and may write then.
            $workers = explode(' ', trim((string) @file_get_contents("/proc/$this->pid/task/$this->pid/children")));
            proc_terminate($this->process, 9);
            foreach (array_filter($workers) as $worker) {
                exec("kill -9 " . (int) $worker . " 2>/dev/null");
                meanwhile(fn () => !is_dir("/proc/$worker") || str_contains((string) @file_get_contents("/proc/$worker/stat"), ') Z '), 'the end of a worker');
            }
        }
        array_map(unlink(...), glob("$this->directory/*"));
        rmdir($this->directory);
    }

    /** The script is another one from now on; the server goes on with the old one until it is told. */
    public function change(string $code): void
    {
        $head = '<?php require ' . var_export(__FILE__, true) . ";\n";
        file_put_contents("$this->directory/server.new", $head . $code);
        rename("$this->directory/server.new", "$this->directory/server.php");
    }

    public function address(): string
    {
        $file = "$this->directory/address";
        meanwhile(function () use ($file) {
            if (!$this->running()) {
                throw new RuntimeException("the server has ended: {$this->log()}");
            }
            return is_file($file);
        }, 'the address');
        return file_get_contents($file);
    }

    /** A peer whose handshake was accepted. */
    public function peer(string $target = '/', array $headers = []): Peer
    {
        $peer = new Peer($this->address(), $target, $headers);
        $peer->head();
        if (!str_starts_with($peer->head, 'HTTP/1.1 101 ')) {
            throw new RuntimeException("refused: $peer->head");
        }
        return $peer;
    }

    /** What $peer is answered to $text. */
    public function ask(Peer $peer, string $text): string
    {
        $peer->text($text);
        $answer = $peer->next();
        if (!str_starts_with($answer, 'text ')) {
            throw new RuntimeException("$text was answered by $answer: {$this->log()}");
        }
        return substr($answer, 5);
    }

    public function log(): string
    {
        return (string) file_get_contents("$this->directory/log");
    }

    /** Waits for $count lines of the log that match; returns the last of them. */
    public function logged(string $pattern, int $count = 1): string
    {
        try {
            meanwhile(function () use ($pattern, $count, &$lines) {
                $lines = preg_grep($pattern, explode("\n", $this->log()));
                return count($lines) >= $count;
            }, $pattern);
        } catch (RuntimeException $e) {
            throw new RuntimeException("{$e->getMessage()} in the log:\n{$this->log()}");
        }
        return end($lines);
    }

    public function signal(string $name): void
    {
        exec("kill -$name $this->pid");
    }

    /** New workers, which have taken over when this returns. */
    public function reload(?string $code = null): void
    {
        if ($code !== null) {
            $this->change($code);
        }
        $done = substr_count($this->log(), 'new workers have started');
        $this->signal('USR1');
        $this->logged('~new workers have started~', $done + 1);
    }

    public function running(): bool
    {
        if ($this->status === null) {
            $status = proc_get_status($this->process);
            $this->status = $status['running'] ? null : $status['exitcode'];
        }
        return $this->status === null;
    }

    /** Waits for the end of the process that has the workers; its status. */
    public function status(): int
    {
        meanwhile(fn () => !$this->running(), 'the end of the server');
        return $this->status;
    }
}
