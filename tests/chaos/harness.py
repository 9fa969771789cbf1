"""What the chaos and soak tests share: processes that talk in JSON lines, and a small runner.

A test is a function `test_*`; it returns a line to print, raises AssertionError or raises Skip.
Environment: LIFELINE_SO (default modules/lifeline.so), PHP (php), LIFELINE_LOAD (built by cargo where
unset), FULL=1 for the long forms.
"""

import json
import os
import queue
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
MODULE = os.path.abspath(os.environ.get("LIFELINE_SO") or os.path.join(ROOT, "modules", "lifeline.so"))
PHP = os.environ.get("PHP") or "php"
FULL = os.environ.get("FULL", "") not in ("", "0")

# Nothing of ours takes so long on an idle machine: it ends a hanging test.
LIMIT = 60.0
# Times of the product are checked with this factor: the clock is the machine's, and it may be busy.
SLACK = 3.0


class Skip(Exception):
    """The machine cannot do this; the text says why."""


def check(condition, text):
    if not condition:
        raise AssertionError(text)


def equal(got, wanted, what):
    check(got == wanted, f"{what}: {got!r}, wanted {wanted!r}")


def load_binary():
    given = os.environ.get("LIFELINE_LOAD")
    if given:
        return given
    subprocess.run(["cargo", "build", "-q", "--locked", "-p", "lifeline-load"], cwd=ROOT, check=True)
    target = os.environ.get("CARGO_TARGET_DIR") or os.path.join(ROOT, "target")
    return os.path.join(ROOT, target, "debug", "lifeline-load")


class Process:
    """A child whose stdout is read line by line; each line is kept with the time it came."""

    running = []

    def __init__(self, command, name, stdin=False, environment=None):
        self.name = name
        self.lines = []
        self.news = threading.Condition()
        self.ended = False
        self.errors = []
        self.child = subprocess.Popen(
            command,
            stdin=subprocess.PIPE if stdin else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            cwd=ROOT,
            env={**os.environ, **(environment or {})},
        )
        self.threads = [
            threading.Thread(target=self._read, daemon=True),
            threading.Thread(target=self._read_errors, daemon=True),
        ]
        for thread in self.threads:
            thread.start()
        Process.running.append(self)

    def _read(self):
        for line in self.child.stdout:
            with self.news:
                self.lines.append((time.time(), line.rstrip("\n")))
                self.news.notify_all()
        with self.news:
            self.ended = True
            self.news.notify_all()

    def _read_errors(self):
        for line in self.child.stderr:
            self.errors.append(line.rstrip("\n"))

    @property
    def pid(self):
        return self.child.pid

    def describe(self):
        last = [line for _, line in self.lines[-5:]]
        return f"{self.name} (exit {self.child.poll()}): stderr {self.errors[-10:]}, last lines {last}"

    def wait_line(self, wanted, what, timeout=LIMIT, start=0):
        """The index of the first line from `start` on for which `wanted(text)` is true."""
        deadline = time.monotonic() + timeout
        at = start
        with self.news:
            while True:
                while at < len(self.lines):
                    if wanted(self.lines[at][1]):
                        return at
                    at += 1
                left = deadline - time.monotonic()
                if self.ended or left <= 0:
                    break
                self.news.wait(left)
        when = "before its end" if self.ended else f"within {timeout} s"
        raise AssertionError(f"no {what} {when} from {self.describe()}")

    def wait(self, timeout=LIMIT):
        try:
            self.child.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"not ended within {timeout} s: {self.describe()}") from None
        for thread in self.threads:
            thread.join(timeout)
        return self.child.returncode

    def signal(self, number):
        self.child.send_signal(number)

    def kill(self):
        if self.child.poll() is None:
            self.child.kill()
        self.child.wait()
        if self in Process.running:
            Process.running.remove(self)

    @classmethod
    def kill_all(cls):
        for process in list(cls.running):
            process.kill()

    def rss(self):
        """Resident memory in bytes."""
        with open(f"/proc/{self.pid}/status") as status:
            return int(re.search(r"^VmRSS:\s+(\d+)", status.read(), re.M).group(1)) * 1024


class Php(Process):
    """A PHP script that prints one JSON object a line, with `event` and `t` (its clock)."""

    def __init__(self, script, config, prefix=(), settings=(), environment=None):
        settings = [word for setting in (f"extension={MODULE}", *settings) for word in ("-d", setting)]
        command = [*prefix, PHP, "-n", *settings, os.path.join(HERE, "php", script), json.dumps(config)]
        super().__init__(command, script, config.get("wait", False), environment)

    def go(self):
        """Lets a server that was started with `wait` bind."""
        self.child.stdin.write("go\n")
        self.child.stdin.flush()

    def events(self, event=None, **fields):
        """All events so far of that name whose fields have these values."""
        with self.news:
            lines = [line for _, line in self.lines]
        found = []
        for line in lines:
            if not line.startswith("{"):
                continue
            value = json.loads(line)
            if event in (None, value["event"]) and all(value.get(key) == wanted for key, wanted in fields.items()):
                found.append(value)
        return found

    def wait_event(self, event, count=1, timeout=LIMIT, where=None, **fields):
        """Waits until `count` such events have come; returns them."""
        deadline = time.monotonic() + timeout
        while True:
            with self.news:
                seen = len(self.lines)
            found = [value for value in self.events(event, **fields) if where is None or where(value)]
            if len(found) >= count:
                return found
            with self.news:
                left = deadline - time.monotonic()
                if self.ended or left <= 0:
                    break
                if len(self.lines) == seen:
                    self.news.wait(left)
        when = "before its end" if self.ended else f"within {timeout} s"
        raise AssertionError(f"{len(found)} of {count} '{event}' {fields or ''} {when} from {self.describe()}")

    def url(self):
        return self.wait_event("listening")[0]["address"]


def server(prefix=(), **config):
    return Php("server.php", config, prefix)


def client(prefix=(), **config):
    return Php("client.php", config, prefix)


class Load(Process):
    """A sub-command of lifeline-load; its last line is the JSON report."""

    def __init__(self, binary, *words, prefix=(), stdin=False):
        super().__init__([*prefix, binary, *map(str, words)], " ".join(map(str, words[:1])), stdin)

    def wait_ready(self):
        self.wait_line(lambda line: line == "ready", "ready")

    def report(self, timeout=LIMIT):
        code = self.wait(timeout)
        check(code in (0, 1) and self.lines, f"no report from {self.describe()}")
        return json.loads(self.lines[-1][1])


class Proxy(Process):
    """The fault proxy."""

    def __init__(self, binary, target, *words):
        super().__init__([binary, "proxy", "--target", target, *words], "proxy", stdin=True)
        at = self.wait_line(lambda line: line.startswith("listening "), "address")
        self.address = self.lines[at][1].split()[1]

    def command(self, text):
        start = len(self.lines)
        self.child.stdin.write(text + "\n")
        self.child.stdin.flush()
        at = self.wait_line(lambda line: True, f"answer to {text}", start=start)
        answer = self.lines[at][1]
        check(not answer.startswith("error"), answer)
        return answer


def host_port(url):
    return re.match(r"ws://([^/]+)", url).group(1)


def upgraded(address, target="/"):
    """A socket to `host:port` whose handshake was accepted, and what was read of the answer and behind it."""
    host, port = address.rsplit(":", 1)
    link = socket.create_connection((host.strip("[]"), int(port)), LIMIT)
    link.sendall(
        f"GET {target} HTTP/1.1\r\nHost: {address}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
    )
    head = b""
    while b"\r\n\r\n" not in head:
        more = link.recv(4096)
        check(more, f"{address}{target} refused: {head!r}")
        head += more
    check(head.startswith(b"HTTP/1.1 101 "), f"{address}{target} refused: {head!r}")
    return link, head


class Control:
    """A WebSocket connection that speaks just enough to give the PHP server its orders."""

    def __init__(self, url):
        host, port = host_port(url).rsplit(":", 1)
        self.socket, head = upgraded(f"{host}:{port}", "/?control")
        # It lives as a peer that answers pings.
        self.rest = head.split(b"\r\n\r\n", 1)[1]
        self.lock = threading.Lock()
        self.inbox = queue.Queue()
        self.thread = threading.Thread(target=self._answer, daemon=True)
        self.thread.start()

    def _answer(self):
        data = self.rest
        try:
            while True:
                while len(data) >= 2:
                    length, head = data[1] & 0x7F, 2
                    if length == 126:
                        length, head = int.from_bytes(data[2:4], "big"), 4
                    elif length == 127:
                        length, head = int.from_bytes(data[2:10], "big"), 10
                    if len(data) < head or len(data) < head + length:
                        break
                    opcode, payload, data = data[0] & 0x0F, data[head : head + length], data[head + length :]
                    if opcode == 9:
                        self._send(0xA, payload)
                    elif opcode in (1, 2):
                        self.inbox.put(payload)
                more = self.socket.recv(65536)
                if not more:
                    return
                data += more
        except OSError:
            return

    def _send(self, opcode, payload):
        length = len(payload)
        check(length < 126, "control messages are short")
        with self.lock:
            self.socket.sendall(bytes([0x80 | opcode, 0x80 | length, 0, 0, 0, 0]) + payload)

    def order(self, text):
        self._send(1, b"\x01" + text.encode())

    def close(self):
        self.socket.close()


def http_status(address, path):
    """The status of a plain GET."""
    address = address.removeprefix("http://").rstrip("/")
    host, port = address.rsplit(":", 1)
    with socket.create_connection((host.strip("[]"), int(port)), LIMIT) as connection:
        connection.settimeout(LIMIT)
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n".encode())
        head = b""
        while b"\r\n" not in head:
            more = connection.recv(4096)
            check(more, f"GET {path} at {address}: end of stream after {head!r}")
            head += more
    return int(head.split()[1])


def main(folder, tests):
    """Runs the tests that the command line names (parts of names; none: all)."""
    global FULL
    words = sys.argv[1:]
    if "full" in words:
        FULL = True
        words.remove("full")
    if not os.path.exists(MODULE):
        print(f"{MODULE} is not there; run make build", file=sys.stderr)
        sys.exit(1)
    if shutil.which(PHP) is None:
        print(f"no {PHP}", file=sys.stderr)
        sys.exit(1)
    binary = load_binary()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    passed = failed = skipped = 0
    for name, test in tests:
        if words and not any(word in name for word in words):
            continue
        start = time.monotonic()
        try:
            said = test(binary) or ""
            passed += 1
            print(f"ok    {name} ({time.monotonic() - start:.1f} s) {said}", flush=True)
        except Skip as reason:
            skipped += 1
            print(f"skip  {name}: {reason}", flush=True)
        except Exception as error:  # a test that breaks is a failed test, the others go on
            failed += 1
            print(f"FAIL  {name} ({time.monotonic() - start:.1f} s): {error}", flush=True)
            if not isinstance(error, AssertionError):
                traceback.print_exc()
        finally:
            Process.kill_all()
    print(f"{folder}: {passed} passed, {failed} failed, {skipped} skipped")
    if passed + failed + skipped == 0:
        print(f"no test has {' or '.join(words)} in its name; there are {', '.join(name for name, _ in tests)}", file=sys.stderr)
    sys.exit(1 if failed or passed + skipped == 0 else 0)


def tests_of(*modules):
    found = []
    for module in modules:
        short = module.__name__
        found += [(f"{short}.{name[5:]}", value) for name, value in vars(module).items() if name.startswith("test_")]
    return found
