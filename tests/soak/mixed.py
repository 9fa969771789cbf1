"""Everything at once, for long: lifeline.v1 and plain clients, compressed and not, TLS, sessions resumed, a channel, a document, slow readers, cut
links, killed clients, connections that come and go; memory, descriptors, threads and latency of the server stay as they are.

SOAK_SECONDS says how long: 110 by default, 1800 in the long form (`make soak`)."""

import os
import random
import shutil
import statistics
import subprocess
import tempfile
import threading
import time

import harness
from harness import LIMIT, Control, Load, Php, Proxy, check, equal, host_port

HERE = os.path.dirname(os.path.abspath(__file__))
MIB = 1024 * 1024
# What the last quarter may have more than the second one: the allocator's holes.
GROWTH = 8 * MIB
# Of medians: the machine has other things to do.
DRIFT = 5
# How many descriptors more: bad clients come and go.
DESCRIPTORS = 20

# What clients send is longer, and alike; answers are about as long.
COMPRESSION = {"threshold": 24, "contextTakeover": True}
RECONNECT = {"base": 0.05, "max": 0.5, "floor": 0.01}


def script(name):
    return os.path.join(HERE, "php", name)


def certificate(folder):
    """A certificate for 127.0.0.1 that is its own CA."""
    cert, key = (os.path.join(folder, name) for name in ("cert.pem", "key.pem"))
    command = ("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2")
    subprocess.run(
        [*command, "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1",
         "-addext", "basicConstraints=critical,CA:FALSE", "-keyout", key, "-out", cert],
        check=True,
        capture_output=True,
    )
    return cert, key


class Sampler:
    """The server's memory, descriptors and threads, twice a second."""

    def __init__(self, php):
        self.php = php
        self.samples = []
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self):
        folder = f"/proc/{self.php.pid}"
        while not self.over.wait(0.5):
            counts = (len(os.listdir(f"{folder}/{kind}")) for kind in ("fd", "task"))
            self.samples.append((time.time(), self.php.rss(), *counts))

    def end(self):
        self.over.set()
        self.thread.join()


class Faults:
    """What goes wrong meanwhile, by chance and until it is told to end."""

    def __init__(self, *actions):
        self.over = threading.Event()
        self.problems = []
        self.threads = [threading.Thread(target=self._run, args=action, daemon=True) for action in actions]
        for thread in self.threads:
            thread.start()

    def _run(self, pause, act):
        chance = random.Random()
        while not self.over.wait(chance.uniform(0.5, 1.5) * pause):
            try:
                act()
            except Exception as error:  # told at the end; nothing of it is to be lost
                self.problems.append(f"{type(error).__name__}: {error}")
                return

    def end(self):
        self.over.set()
        for thread in self.threads:
            thread.join(LIMIT * 2)


class Mixed:
    def __init__(self, binary, seconds):
        self.binary = binary
        self.seconds = seconds
        self.folder = tempfile.mkdtemp(prefix="lifeline-soak-")
        self.stop = os.path.join(self.folder, "stop")
        self.counts = {"cuts": 0, "killed": 0, "bad": 0, "connects": 0}
        self.life = 0
        cert, key = certificate(self.folder)
        options = {
            "tls": {"cert": cert, "key": key},
            "heartbeat": {"interval": 2, "timeout": 2},
            # All that may be under way while a client is away.
            "resume": {"count": 100_000, "bytes": 16 * MIB, "ttl": 20},
            "dedupe": {"ttl": 60},
            "send": {"limit": MIB},
            "compression": COMPRESSION,
        }
        self.server = Php(
            script("mixed_server.php"), {"listen": ["ws://127.0.0.1:0", "wss://127.0.0.1:0"], "options": options}
        )
        addresses = self.server.wait_event("listening")[0]["addresses"]
        self.plain = next(address for address in addresses if address.startswith("ws://"))
        secure = next(address for address in addresses if address.startswith("wss://"))
        self.proxies = [
            Proxy(binary, host_port(self.plain)),
            Proxy(binary, secure.removeprefix("wss://").rstrip("/")),
        ]
        self.tls = {"ca": cert}

    def client(self, first, count, every, secure=False, **more):
        proxy = self.proxies[secure]
        options = {"reconnect": RECONNECT, "heartbeat": {"interval": 2, "timeout": 2}, **more.pop("options", {})}
        if secure:
            options["tls"] = self.tls
        scheme = "wss" if secure else "ws"
        config = {
            "url": f"{scheme}://{proxy.address}/",
            "first": first,
            "count": count,
            "life": 0,
            "every": every,
            "size": 100,
            "stop": self.stop,
            "document": True,
            "options": options,
            **more,
        }
        return Php(script("mixed_client.php"), config)

    def start_victim(self):
        """A client that will be killed; its outbox is on disk."""
        self.life += 1
        log = os.path.join(self.folder, f"victim-{self.life}")
        open(log, "w").close()
        outbox = {"path": os.path.join(self.folder, "outbox"), "durability": "interval"}
        self.victim = self.client(
            1000, 1, 0.01, life=self.life, log=log, document=False, options={"outbox": outbox}
        )

    def kill(self):
        self.victim.wait_event("tick")
        self.victim.kill()
        self.counts["killed"] += 1
        self.start_victim()

    def cut(self):
        proxy = random.choice(self.proxies)
        proxy.command(random.choice(("cut", "close")))
        self.counts["cuts"] += 1

    def bad(self):
        peers = "deaf=5,half=3,silent=3,flood=2,ping=5"
        words = ("--peers", peers, "--secs", 4, "--size", 1000, "--rate", 1000)
        load = Load(self.binary, "hold", "--url", f"{self.plain}/?news", *words)
        load.wait()
        if load in Load.running:
            Load.running.remove(load)
        self.counts["bad"] += 18

    def churn(self):
        words = ("--connects", 200, "--concurrency", 8, "--ending", random.choice(("close", "fin", "reset")))
        load = Load(self.binary, "churn", "--url", self.plain, *words)
        report = load.report(LIMIT * 2)
        check("error" not in report and not report.get("failed"), f"churn: {report}")
        if load in Load.running:
            Load.running.remove(load)
        self.counts["connects"] += 200

    def run(self):
        begun = time.time()
        steady = [
            self.client(0, 10, 0.02),
            self.client(100, 5, 0.02, secure=True),
            self.client(200, 5, 0.02, options={"compression": COMPRESSION}),
        ]
        echo = Load(
            self.binary, "echo", "--url", self.plain, "--conns", 4, "--messages", 10**9, "--every", 0.02, "--size", 1024,
            "--timeout", self.seconds + 600, "--until-eof", stdin=True,
        )
        self.start_victim()
        sampler = Sampler(self.server)
        faults = Faults((1.0, self.cut), (3.0, self.kill), (2.0, self.bad), (1.0, self.churn))
        faults.over.wait(begun + self.seconds - time.time())
        ended = time.time()
        faults.end()
        sampler.end()
        open(self.stop, "w").close()
        clients = [*steady, self.victim]
        ends = [client.wait_event("end", timeout=LIMIT * 2)[0] for client in clients]
        echo.child.stdin.close()
        echo = echo.report()
        control = Control(self.plain)
        control.order("totals")
        totals = self.server.wait_event("totals")[0]
        control.close()
        equal(faults.problems, [], "faults")
        check(all(totals["compressed"].values()), f"compressed messages: {totals['compressed']}")
        equal(self.server.events("order") + self.server.events("error"), [], "what the server found")
        for client in clients:
            equal(client.events("gap") + client.events("order"), [], f"what {client.name} found")
        check("error" not in echo, f"plain echoes: {echo}")
        return begun, ended, sampler.samples, steady, ends, echo, totals

    def lost(self, ends, totals):
        """Messages that were taken and not handled; how many were taken."""
        handled = totals["handled"]
        taken = lost = 0
        for end in ends[:-1]:
            for client, sent in end["sent"].items():
                taken += sent
                lost += sent - handled.get(f"{client} 0", 0)
        for life in range(1, self.life + 1):
            with open(os.path.join(self.folder, f"victim-{life}")) as log:
                text = log.read()
            lines = text[: text.rfind("\n") + 1].splitlines()
            # What send() took last may not have come to the log.
            sent = int(lines[-1].split()[1]) if lines else 0
            taken += sent
            lost += max(0, sent - handled.get(f"1000 {life}", 0))
        return taken, lost


def mib(size):
    return f"{size / MIB:.1f} MiB"


def test_mixed(binary):
    seconds = float(os.environ.get("SOAK_SECONDS") or (1800 if harness.FULL else 110))
    mixed = Mixed(binary, seconds)
    begun, ended, samples, steady, ends, echo, totals = mixed.run()
    taken, lost = mixed.lost(ends, totals)
    equal(lost, 0, "messages lost")
    for end in ends[:-1]:
        boards = list(end["board"].values())
        for board in boards[1:]:
            equal(board, boards[0], "the document, at two clients")

    quarter = (ended - begun) / 4

    def compare(name, rows, show):
        """Medians of the second quarter and of the last."""
        halves = [[value for at, value in rows if begun + n * quarter <= at < begun + (n + 1) * quarter] for n in (1, 3)]
        check(all(halves), f"{name}: no figures in a quarter of {quarter:.0f} s")
        early, late = map(statistics.median, halves)
        return early, late, f"  | {name} | {show(early)} | {show(late)} |"

    column = {name: [(row[0], row[at]) for row in samples] for at, name in enumerate(("rss", "fds", "threads"), 1)}
    ticks = [(tick["t"], tick["median"]) for client in steady for tick in client.events("tick")]
    lines = ["  |  | second quarter | last quarter |", "  | --- | --- | --- |"]
    early, late, line = compare("resident memory, median", column["rss"], mib)
    lines.append(line)
    check(late - early <= GROWTH, f"resident memory grew: {line}")
    early, late, line = compare("descriptors, median", column["fds"], lambda count: f"{count:.0f}")
    lines.append(line)
    check(late - early <= DESCRIPTORS, f"descriptors: {line}")
    early, late, line = compare("threads, median", column["threads"], lambda count: f"{count:.0f}")
    lines.append(line)
    check(late <= early, f"threads: {line}")
    early, late, line = compare("message and answer, median of medians", ticks, lambda ms: f"{ms:.2f} ms")
    lines.append(line)
    check(late <= DRIFT * early, f"latency has drifted: {line}")
    opens, resumed, heard = (sum(end[name] for end in ends) for name in ("opens", "resumed", "heard"))
    check(resumed > 0 and mixed.counts["cuts"] > 0 and mixed.counts["killed"] > 0, f"too little went wrong: {mixed.counts}")
    shutil.rmtree(mixed.folder)
    return (
        f"{ended - begun:.0f} s: {taken} messages sent, {lost} lost, all once and in order, {heard} published heard, "
        f"{echo['messages']} plain echoes, {totals['compressed']['in']} and {totals['compressed']['out']} messages compressed; {mixed.counts['cuts']} times all links over ws or wss cut, {opens} opens, {resumed} resumed, "
        f"{mixed.counts['killed']} clients killed, {mixed.counts['bad']} bad clients, {mixed.counts['connects']} came and went\n"
        + "\n".join(lines)
    )
