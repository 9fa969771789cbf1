"""A server with workers, as seen from outside: its processes, its admin listener, and clients that speak to it."""

import json
import os
import queue
import signal
import threading
import time
import urllib.request

from harness import LIMIT, Load, Php, check, equal, host_port, upgraded

HERE = os.path.dirname(os.path.abspath(__file__))


class Gateway:
    """The script, with `workers` (the option's value) and the rest of its configuration."""

    def __init__(self, workers=2, script="server.php", options=None, **config):
        options = {"workers": workers, "admin": "127.0.0.1:0", **(options or {})}
        self.count = workers["count"] if isinstance(workers, dict) else workers
        self.php = Php(os.path.join(HERE, "php", script), {"options": options, **config}, settings=("memory_limit=-1",))
        said = self.php.wait_event("listening", worker=None)[0]
        self.url, self.admin = said["address"], said["admin"]
        self.address = host_port(self.url)

    def stats(self):
        address = self.admin if self.admin.startswith("http") else f"http://{self.admin}"
        with urllib.request.urlopen(f"{address.rstrip('/')}/status.json", timeout=LIMIT) as answer:
            return json.load(answer)["stats"]

    def workers(self):
        """What stats() says of workers."""
        return self.stats()["workers"]

    def wait(self, wanted, what, timeout=LIMIT):
        """Until `wanted(workers)` is true; returns them."""
        deadline = time.monotonic() + timeout
        while True:
            told = self.workers()
            if wanted(told):
                return told
            check(time.monotonic() < deadline, f"no {what} within {timeout} s: {told}; {self.php.describe()}")
            time.sleep(0.05)

    def wait_serving(self, **fields):
        """Until as many workers as there are to be serve, none else is left, and the fields have these values."""

        def serving(told):
            states = [worker["state"] for worker in told["list"]]
            return states == ["serving"] * self.count and all(told[name] == value for name, value in fields.items())

        return self.wait(serving, f"{self.count} serving workers with {fields}")

    def reload(self):
        """One reload, seen to its end."""
        before = self.workers()
        self.php.signal(signal.SIGUSR1)
        told = self.wait_serving(reloads=before["reloads"] + 1)
        equal(told["generation"], before["generation"] + 1, "generation")
        old, new = pids(before), pids(told)
        check(not old & new, f"workers {old & new} have outlived the reload")
        return told

    def clients(self, count):
        return [Client(self.address) for _ in range(count)]

    def logged(self, pattern):
        """The first line of the log so far that has `pattern` (a compiled regular expression) in it."""
        return next((line["message"] for line in self.php.events("log") if pattern.search(line["message"])), None)

    def wait_logged(self, pattern):
        self.php.wait_event("log", where=lambda line: pattern.search(line["message"]))
        return self.logged(pattern)


def pids(told):
    return {worker["pid"] for worker in told["list"]}


def serving(told):
    return sorted(worker["pid"] for worker in told["list"] if worker["state"] == "serving")


def is_there(pid):
    """It runs, and is no zombie."""
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


class Client:
    """A plain client with a thread that reads: messages and pongs in queues, pings answered."""

    def __init__(self, address):
        self.link, head = upgraded(address)
        self.link.settimeout(None)
        self.inbox, self.pongs = queue.Queue(), queue.Queue()
        self.pings = 0
        # Why the connection has ended; None while it has not.
        self.ended = None
        self.lock = threading.Lock()
        threading.Thread(target=self._read, args=(head.split(b"\r\n\r\n", 1)[1],), daemon=True).start()

    def _read(self, data):
        try:
            while True:
                while len(data) >= 2:
                    length, head = data[1] & 0x7F, 2
                    if length == 126:
                        length, head = int.from_bytes(data[2:4], "big"), 4
                    if len(data) < head + length:
                        break
                    opcode, payload, data = data[0] & 0x0F, data[head : head + length], data[head + length :]
                    if opcode == 8:
                        self.ended = f"close {payload!r}"
                        self.put(8, payload)
                    elif opcode == 9:
                        self.pings += 1
                        self.put(0xA, payload)
                    elif opcode == 0xA:
                        self.pongs.put(payload)
                    else:
                        self.inbox.put(payload.decode())
                more = self.link.recv(65536)
                if not more:
                    self.ended = self.ended or "end of stream"
                    return
                data += more
        except OSError as error:
            self.ended = self.ended or str(error)

    def put(self, opcode, payload):
        length = len(payload)
        size = bytes([0x80 | length]) if length < 126 else b"\xfe" + length.to_bytes(2, "big")
        with self.lock:
            self.link.sendall(bytes([0x80 | opcode]) + size + bytes(4) + payload)

    def say(self, text):
        self.put(1, text.encode())

    def order(self, text):
        self.say("\x01" + text)

    def hear(self, what):
        try:
            return self.inbox.get(timeout=LIMIT)
        except queue.Empty:
            raise AssertionError(f"no {what} within {LIMIT} s; ended: {self.ended}") from None

    def ask(self, text):
        """Says it and expects it back."""
        self.say(text)
        equal(self.hear(f"answer to {text!r}"), text, "echo")

    def who(self):
        """Which worker it is with: worker (number), pid, resumed, handled (of its messages by this worker)."""
        self.order("who")
        return json.loads(self.hear("answer to who"))

    def ping(self, payload):
        self.put(9, payload)
        try:
            equal(self.pongs.get(timeout=LIMIT), payload, "pong")
        except queue.Empty:
            raise AssertionError(f"no pong within {LIMIT} s; ended: {self.ended}") from None


def all_open(clients):
    ended = [client.ended for client in clients if client.ended]
    check(not ended, f"{len(ended)} of {len(clients)} have ended: {ended[:3]}")


class Crowd:
    """Plain clients that number their messages, in processes of the load tool."""

    def __init__(self, binary, gateway, conns, processes=1, **settings):
        self.conns = conns
        words = [word for name, value in settings.items() for word in (f"--{name}", value)]
        share = [conns // processes + (number < conns % processes) for number in range(processes)]
        common = ("--url", gateway.url, "--timeout", LIMIT, "--json")
        self.loads = [Load(binary, "numbers", "--conns", one, *common, *words, stdin=True) for one in share]
        for load in self.loads:
            load.wait_ready()

    def count(self):
        """What was counted so far, summed."""
        marks = []
        for load in self.loads:
            marks.append(len(load.lines))
            load.child.stdin.write("count\n")
            load.child.stdin.flush()
        lines = []
        for load, mark in zip(self.loads, marks):
            at = load.wait_line(lambda line: line.startswith("{"), "count", start=mark)
            lines.append(json.loads(load.lines[at][1]))
        return summed(lines)

    def wait(self, wanted, what):
        deadline = time.monotonic() + LIMIT
        while True:
            told = self.count()
            if wanted(told):
                return told
            check(time.monotonic() < deadline, f"not {what} within {LIMIT} s: {told}")
            time.sleep(0.05)

    def flow(self, rounds=1):
        """Until as many messages more are answered as there are clients, times `rounds`."""
        start = self.count()["answered"]
        return self.wait(lambda told: told["answered"] >= start + rounds * self.conns, "answered")

    def end(self):
        """Stops them; what was counted, without anything that is never allowed."""
        for load in self.loads:
            load.child.stdin.close()
        told = summed([load.report(2 * LIMIT) for load in self.loads])
        wrong = {name: told[name] for name in ("closes", "reordered", "duplicates", "unknown", "changed", "waiting") if told[name]}
        check(not wrong, f"{wrong}: {told}")
        equal(told["answered"] + told["lost"], told["sent"], "answered and lost")
        return told


def summed(reports):
    total = {}
    for report in reports:
        for name, value in report.items():
            if isinstance(value, (int, float, list)):
                total[name] = total[name] + value if name in total else value
            elif name == "delay_ms":
                total["worst_ms"] = max(total.get("worst_ms", 0), value["max"])
    return total
