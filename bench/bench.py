#!/usr/bin/env python3
"""Measures lifeline beside its peers and writes the tables of RESULTS.md.

    bench/bench.py [--quick] [--rounds N] [--only NAME,...] [--peers NAME,...] [--output FILE] [--json FILE]

Servers of a row are up at once and are measured in turn, round by round, so that what else the machine
does hits all alike. A row's figure is the median over the rounds; where it is a ratio, the median of the
ratios to ws within each round. Environment: LIFELINE_SO, LIFELINE_LOAD, PHP, NODE; AUTOLOAD: a Composer
autoload.php that has Workerman or Ratchet (default bench/vendor/autoload.php); SWOOLE: its
swoole.so, where PHP does not load it anyway (which costs lifeline its batches); UWEBSOCKETS: what was built of
servers/uwebsockets.cpp.
"""

import argparse
import base64
import contextlib
import datetime
import json
import os
import platform
import re
import shutil
import signal
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
import types

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(HERE)
MODULE = os.path.abspath(os.environ.get("LIFELINE_SO") or os.path.join(ROOT, "modules", "lifeline.so"))
TARGET = os.environ.get("CARGO_TARGET_DIR") or os.path.join(ROOT, "target")
APPENDS = os.environ.get("LIFELINE_APPENDS") or os.path.join(TARGET, "release", "examples", "appends")
LOAD = os.environ.get("LIFELINE_LOAD") or os.path.join(TARGET, "release", "lifeline-load")
PHP = os.environ.get("PHP") or "php"
NODE = os.environ.get("NODE") or "node"
AUTOLOAD = os.environ.get("AUTOLOAD") or os.path.join(HERE, "vendor", "autoload.php")
JIT = ["opcache.enable_cli=1", "opcache.jit=tracing", "opcache.jit_buffer_size=64M", "opcache.validate_timestamps=0",
       "memory_limit=-1", "zend.assertions=-1"]
START = 20.0


def php(*settings):
    command = [PHP]
    for setting in [*JIT, *settings]:
        command += ["-d", setting]
    return command


def lifeline():
    loaded = subprocess.run([PHP, "-m"], capture_output=True, text=True).stdout.split()
    return php() if "lifeline" in loaded else php(f"extension={MODULE}")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def answers(port):
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 0.5):
        return True
    return False


class Server:
    """A server process in a group of its own; up when its port answers, gone when it does not."""

    def __init__(self, command, environment=None, processes=1):
        self.port = free_port()
        own = {"PORT": str(self.port), "LISTEN": f"ws://127.0.0.1:{self.port}", "AUTOLOAD": AUTOLOAD}
        own.update(environment or {})
        if processes > 1:
            line = " ".join(f"'{word}'" for word in command)
            command = ["sh", "-c", f"for n in $(seq {processes}); do {line} & done; wait"]
        self.child = subprocess.Popen(
            command, cwd=HERE, env={**os.environ, **own}, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            start_new_session=True,
        )
        until = time.monotonic() + START
        while not answers(self.port):
            if self.child.poll() is not None or time.monotonic() > until:
                self.stop()
                raise RuntimeError(f"{' '.join(command[-2:])} did not start")
            time.sleep(0.05)
        # The probe's connection is forgotten, the first pages are touched.
        time.sleep(0.5 if processes == 1 else 2.0)

    @property
    def url(self):
        return f"ws://127.0.0.1:{self.port}/"

    def stop(self):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.child.pid, signal.SIGKILL)
        self.child.wait()
        self.child.stdout.close()
        until = time.monotonic() + START
        while answers(self.port) and time.monotonic() < until:
            time.sleep(0.05)


def commands():
    """Peers that are installed: name -> command. lifeline and ws always."""
    found = {
        "lifeline": [*lifeline(), "servers/lifeline.php"],
        "ws": [NODE, "servers/ws.js"],
    }
    modules = subprocess.run([PHP, "-m"], capture_output=True, text=True).stdout.lower().split()
    if os.environ.get("SWOOLE"):
        found["swoole"] = [*php(f"extension={os.path.abspath(os.environ['SWOOLE'])}"), "servers/swoole.php"]
    elif "swoole" in modules:
        found["swoole"] = [*php(), "servers/swoole.php"]
    if os.path.exists(AUTOLOAD):
        for name, kind in (("workerman", "Workerman\\Worker"), ("ratchet", "Ratchet\\WebSocket\\WsServer")):
            probe = f"require {AUTOLOAD!r}; exit(class_exists({kind!r}) ? 0 : 1);".replace("\\\\", "\\")
            if subprocess.run([PHP, "-r", probe], capture_output=True).returncode == 0:
                found[name] = [*php(), f"servers/{name}.php"]
    if os.environ.get("UWEBSOCKETS"):
        found["uwebsockets"] = [os.path.abspath(os.environ["UWEBSOCKETS"])]
    elif subprocess.run([NODE, "-e", "require('uWebSockets.js')"], cwd=HERE, capture_output=True).returncode == 0:
        found["uwebsockets"] = [NODE, "servers/uwebsockets.js"]
    return found


def load(command, *words, server=None, check=True, **options):
    """One run of lifeline-load; its JSON."""
    line = [LOAD, command, *words, "--json"]
    if server is not None:
        line += ["--url", server.url, "--server-pid", str(server.child.pid)]
    for key, value in options.items():
        line += [f"--{key.replace('_', '-')}", str(value)]
    run = subprocess.run(line, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if not run.stdout.strip():
        raise RuntimeError(f"{' '.join(line)}: exit {run.returncode}: {run.stderr.strip()[-500:]}")
    report = json.loads(run.stdout.strip().splitlines()[-1])
    if check and report.get("failed"):
        raise RuntimeError(f"{' '.join(line)}: {report['failed']} failed: {report.get('errors')}")
    return report


class Row:
    """One line of the target table."""

    def __init__(self, name, title, kind, target, reach, run, unit="", fresh=False):
        self.name, self.title, self.kind, self.target, self.reach = name, title, kind, target, reach
        self.run, self.unit, self.fresh = run, unit, fresh
        self.cells = {}

    def value(self, report):
        if self.name == "p50":
            return report["delay_ms"]["p50"]
        if self.name == "idle":
            return report["server"]["pss_per_connection_end"]
        return report["server"]["cpu_seconds_per_million"]


def rows(settings):
    secs, warm = settings.secs, settings.warm

    def echo(conns, window, size):
        return lambda server: load("echo", server=server, conns=conns, window=window, size=size, secs=secs, warm=warm)

    def broadcast(size, window):
        return lambda server: load("broadcast", server=server, conns=1000, size=size, window=window, secs=secs, warm=warm)

    def handshake(server):
        return load("handshake", server=server, concurrency=32, secs=secs, warm=warm, check=False)

    def idle(server):
        return load("idle", server=server, conns=settings.idle, hold=3)

    return [
        Row("echo-100-16", "echo 32 B, 100 conns, 16 in flight", "ratio", 0.20, 0.12, echo(100, 16, 32)),
        Row("echo-1000-16", "echo 32 B, 1,000 conns, 16 in flight", "ratio", 0.20, 0.12, echo(1000, 16, 32)),
        Row("echo-100-1", "echo 32 B, 100 conns, 1 in flight", "ratio", 0.50, 0.36, echo(100, 1, 32)),
        Row("echo-1k", "echo 1 KiB, 100 conns, 16 in flight", "ratio", 0.20, 0.12, echo(100, 16, 1024)),
        Row("echo-64k", "echo 64 KiB, 100 conns, 1 in flight", "ratio", 0.45, 0.30, echo(100, 1, 65536)),
        Row("publish-1", "publish to 1,000 subscribers, 64 B, 1 in flight", "ratio", 0.60, 0.45, broadcast(64, 1)),
        Row("publish-16", "publish to 1,000 subscribers, 1 KiB, 16 in flight", "ratio", 0.30, 0.15, broadcast(1024, 16)),
        Row("handshake", "connect + upgrade + close, CPU s/M", "absolute", 45, 40, handshake),
        Row("idle", f"idle connection, PSS bytes at {settings.idle:,}", "absolute", 1500, 800, idle, "B", fresh=True),
        Row("p50", "one connection, 1 in flight: p50 latency", "ratio", 1.5, 1.0, echo(1, 1, 32), "ms"),
    ]


def say(text):
    print(text, file=sys.stderr, flush=True)


def measure(row, peers, rounds):
    names = list(peers)
    servers = {}
    try:
        if not row.fresh:
            for name in names:
                servers[name] = Server(peers[name])
        for number in range(rounds):
            # Another one first each time.
            for name in names[number % len(names):] + names[:number % len(names)]:
                try:
                    if row.fresh:
                        servers[name] = Server(peers[name])
                    report = row.run(servers[name])
                    row.cells.setdefault(name, {})[number] = report
                    say(f"  {row.name} round {number + 1} {name}: {row.value(report):.4g}"
                        f" ({report['messages_per_second']:.0f}/s, others {report.get('other_cores', 0):.2f} cores)")
                except RuntimeError as error:
                    say(f"  {row.name} round {number + 1} {name}: {error}")
                    if not row.fresh:
                        servers[name].stop()
                        servers[name] = Server(peers[name])
                finally:
                    if row.fresh and name in servers:
                        servers.pop(name).stop()
    finally:
        for server in servers.values():
            server.stop()


def median(values):
    values = list(values)
    return statistics.median(values) if values else None


def summary(row, name):
    """Of one peer: median value, median ratio to ws, lowest and highest, the rest."""
    cells = row.cells.get(name, {})
    values = {number: row.value(report) for number, report in cells.items()}
    reference = {number: row.value(report) for number, report in row.cells.get("ws", {}).items()}
    ratios = [value / reference[number] for number, value in values.items() if reference.get(number)]
    pick = lambda path: median(path(report) for report in cells.values())
    return {
        "value": median(values.values()),
        "ratio": median(ratios),
        "spread": [min(ratios), max(ratios)] if ratios else None,
        "p50": pick(lambda report: report["delay_ms"]["p50"]),
        "p99": pick(lambda report: report["delay_ms"]["p99"]),
        "rate": pick(lambda report: report["messages_per_second"]),
        "others": pick(lambda report: report.get("other_cores", 0.0)),
        "limited": any(report.get("generator_limited") for report in cells.values()),
        "rounds": len(cells),
    }


def figure(number, digits=3):
    if number is None:
        return "–"
    if number >= 1000:
        return f"{number:,.0f}"
    return f"{number:.{digits}g}"


def table(head, lines):
    out = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(out + ["| " + " | ".join(line) + " |" for line in lines])


def target_table(done):
    lines = []
    for row in done:
        own, reference = summary(row, "lifeline"), summary(row, "ws")
        measured = own["ratio"] if row.kind == "ratio" else own["value"]
        met = "not measured" if measured is None else "met" if measured <= row.target else "**missed**"
        spread = f" ({figure(own['spread'][0])}–{figure(own['spread'][1])})" if row.kind == "ratio" and own["spread"] else ""
        unit = row.unit or "s/M"
        lines.append([
            row.title, f"≤ {row.target:g}", f"{row.reach:g}", figure(measured) + spread, met,
            f"{figure(own['value'])} {unit}", f"{figure(reference['value'])} {unit}",
        ])
    return table(["work", "target", "reach for", "measured", "", "lifeline", "ws"], lines)


def detail_table(done, names):
    lines = []
    for row in done:
        for name in names:
            one = summary(row, name)
            if one["rounds"]:
                limited = " (limited by the generator)" if one["limited"] else ""
                lines.append([
                    row.title, name, f"{figure(one['value'])}{' ' + row.unit if row.unit else ''}", figure(one["ratio"]),
                    figure(one["p50"]), figure(one["p99"]), figure(one["rate"]) + limited, figure(one["others"], 2),
                ])
    head = ["work", "server", "CPU s/M", "ratio to ws", "p50 ms", "p99 ms", "per second", "other cores"]
    return table(head, lines)


# What has no reference.

def linearity(settings, _):
    """Cost of a message and of a connection at 100, 1,000 and 10,000 connections."""
    sizes = [100, 1000] if settings.quick else [100, 1000, 10000]
    costs = {conns: [] for conns in sizes}
    memory = {conns: [] for conns in sizes}
    rates = []
    for _ in range(settings.rounds):
        for conns in sizes:
            server = Server(commands()["lifeline"])
            try:
                report = load("idle", server=server, conns=conns, hold=2)
                memory[conns].append(report["server"]["pss_per_connection_end"])
                report = load("echo", server=server, conns=conns, window=4, size=32, secs=settings.secs,
                              warm=settings.warm + conns / 5000)
                costs[conns].append(report["server"]["cpu_seconds_per_million"])
                rates.append((conns, report["messages_per_second"]))
            finally:
                server.stop()
    cost = {conns: median(values) for conns, values in costs.items()}
    slope = cost[sizes[-1]] / cost[sizes[0]]
    lines = [[f"{conns:,}", figure(cost[conns]), figure(median(r for c, r in rates if c == conns)),
              figure(median(memory[conns])) + " B"] for conns in sizes]
    text = table(["connections", "CPU s/M, 4 in flight", "per second", "PSS a connection"], lines)
    return text + f"\n\nCost of a message at {sizes[-1]:,} to that at {sizes[0]:,}: {slope:.2f}", slope <= 1.2, "slope ≤ 1.2"


def heartbeats(settings, _):
    """Beats of many connections while PHP sleeps in a callback."""
    conns, interval, hold = (2000, 5, 16) if settings.quick else (19000, 25, 80)
    options = json.dumps({"heartbeat": {"interval": interval, "timeout": 10}})
    server = Server(commands()["lifeline"], {"OPTIONS": options})
    try:
        report = load("idle", server=server, conns=conns, hold=hold, beat=interval, order=f"!sleep {hold + 60}", check=False)
    finally:
        server.stop()
    late = report.get("beat_lateness_ms", {}).get("p999")
    share = report["server"]["cores"] * (interval / 25 * 19000 / conns if settings.quick else 1)
    good = late is not None and late < 100 and share < 0.01 and report["failed"] == 0
    lines = [[f"{conns:,}", f"{interval} s", f"{report['beats']:,}", f"{100 * report['server']['cores']:.2f} %",
              figure(report.get("beat_lateness_ms", {}).get("p50")), figure(late),
              figure(report.get("beat_lateness_ms", {}).get("max")), str(report["failed"])]]
    head = ["connections", "interval", "beats", "of a core", "late by p50 ms", "p99.9 ms", "max ms", "lost"]
    text = table(head, lines)
    if report["failed"]:
        text += "\n\nWhy they were lost: " + "; ".join(report["errors"])
    return text, good, "< 1 % of a core at 19,000 and 25 s, p99.9 < 100 ms, none lost"


def crowd(settings, state):
    """Many connections over processes that share a port."""
    conns, processes = (10000, 2) if settings.quick else (100000, 6)
    server = Server(commands()["lifeline"], {"OPTIONS": json.dumps({"reusePort": True})}, processes)
    try:
        report = load("idle", server=server, conns=conns, hold=3, check=False)
    finally:
        server.stop()
    each = report["server"]["pss_per_connection_end"]
    single = next((summary(row, "lifeline")["value"] for row in state if row.name == "idle" and row.cells), None)
    good = report["open"] == conns and report["failed"] == 0 and (single is None or each <= single * 1.1)
    lines = [[f"{report['open']:,} of {conns:,}", str(processes), figure(each) + " B", figure(single) + " B",
              f"{report['opening_seconds']:.1f} s", figure(report["server"]["opening_cpu_seconds"] * 1e6 / conns) + " µs"]]
    head = ["open", "processes", "PSS a connection", f"in one process ({settings.idle:,})", "opened in", "CPU to open one"]
    return table(head, lines), good, "all open, memory a connection no worse than in one process"


def plain_client(port, resource="/"):
    link = socket.socket()
    link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    link.connect(("127.0.0.1", port))
    key = base64.b64encode(os.urandom(16)).decode()
    link.sendall(f"GET {resource} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                 f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode())
    head = b""
    while b"\r\n\r\n" not in head:
        head += link.recv(4096)
    return link


def text_frame(text):
    data, mask = text.encode(), struct.pack(">I", 0x21436587)
    return bytes([0x81, 0x80 | len(data)]) + mask + bytes(byte ^ mask[at % 4] for at, byte in enumerate(data))


def rss(pid):
    with open(f"/proc/{pid}/status", encoding="ascii") as status:
        return int(re.search(r"VmHWM:\s+(\d+)", status.read())[1]) * 1024


def queueing(settings, _):
    """PHP sends a million messages to a peer that reads none."""
    count = 100_000 if settings.quick else 1_000_000
    lines, good = [], True
    for policy in ("close", "dropNewest", "dropOldest"):
        server = Server(commands()["lifeline"], {"OPTIONS": json.dumps({"send": {"policy": policy, "limit": 1 << 20}})})
        try:
            before = rss(server.child.pid)
            with plain_client(server.port) as link:
                link.sendall(text_frame(f"!queue {count}"))
                report = None
                for line in server.child.stdout:
                    if line.startswith("{"):
                        report = json.loads(line)
                        break
            grown = rss(server.child.pid) - before
        finally:
            server.stop()
        # The limit, what the connection had taken out of the queue already, and the allocator's share.
        bounded = report is not None and report["peak"] <= (1 << 20) + (256 << 10) and grown < 24 << 20
        good = good and bounded
        lines.append([policy, f"{count - report['left']:,}", f"{report['accepted']:,}", f"{report['peak']:,}",
                      f"{grown / 1048576:.1f} MiB", "bounded" if bounded else "**not bounded**"])
    head = ["send.policy", "send() calls", "accepted", "most bytes queued", "memory grew by", ""]
    return table(head, lines), good, "queue ≤ send.limit (1 MiB) and what is being written, memory grows by less than 24 MiB"


def clients(settings, _):
    """WsClient beside the client of ws, against a server that costs next to nothing."""
    served = subprocess.Popen([LOAD, "serve", "--size", "32"], stdout=subprocess.PIPE, text=True)
    try:
        address = served.stdout.readline().split()[1]
        found = {"lifeline": [*lifeline(), "clients/lifeline.php"], "ws": [NODE, "clients/ws.js"]}
        seen = {}
        for _ in range(settings.rounds):
            for mode, path in (("receive", "flood"), ("send", "sink")):
                for name, command in found.items():
                    run = subprocess.run([*command, mode, f"ws://{address}/{path}", str(settings.secs)], cwd=HERE,
                                         capture_output=True, text=True, timeout=60 + settings.secs * 5)
                    seen.setdefault((mode, name), []).append(json.loads(run.stdout.strip().splitlines()[-1]))
        run = subprocess.run([*found["lifeline"], "reconnect", f"ws://{address}/cut", str(5 if settings.quick else 20)],
                             cwd=HERE, capture_output=True, text=True, timeout=120)
        back = json.loads(run.stdout.strip().splitlines()[-1])
    finally:
        served.terminate()
        served.wait()
    lines = []
    for (mode, name), reports in seen.items():
        what = "received into onMessage" if mode == "receive" else "sent and flushed, 10,000 at a time"
        lines.append([f"32 B {what}", name, figure(median(report["messages_per_second"] for report in reports)),
                      figure(median(report["cpu_seconds_per_million"] for report in reports))])
    text = table(["work", "client", "messages/s", "CPU s/M"], lines)
    text += (f"\n\nReconnect after a reset, with the default first window of 0.1 s: {back['reconnects']} times,"
             f" p50 {figure(back['p50_ms'])} ms, p99 {figure(back['p99_ms'])} ms, {figure(back['cpu_ms'])} ms of CPU each.")
    return text, back["reconnects"] > 0 and (back["p50_ms"] or 1e9) < 200, "reconnects at p50 < 200 ms"


def durable(settings, _):
    """Messages made durable a second: the log alone, and one PHP thread. 256 B each."""
    lines = []
    directory = tempfile.mkdtemp(prefix="lifeline-appends-")
    try:
        run = subprocess.run([APPENDS, directory, str(settings.secs)], capture_output=True, text=True, timeout=120, check=True)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    for report in map(json.loads, run.stdout.splitlines()):
        lines.append(["the log, one thread", "each commit", str(report["batch"]), figure(report["recordsPerSecond"]),
                      figure(report["cpuUsPerRecord"]), figure(report["bytesPerRecord"])])
    for durability, batches in (("always", (1, 16, 256)), ("interval", (1, 256)), ("spill", (1, 256))):
        for batch in batches:
            run = subprocess.run([*lifeline(), "clients/durable.php", durability, str(batch), str(settings.secs)], cwd=HERE,
                                 capture_output=True, text=True, timeout=120, check=True)
            report = json.loads(run.stdout.splitlines()[-1])
            lines.append([f"PHP, {'sendMany()' if batch > 1 else 'send()'}", durability, str(batch), figure(report["rate"]),
                          figure(report["cpuUs"]), figure(report["bytes"])])
    head = ["work", "durability", "a call", "messages/s", "CPU µs each", "bytes on disk each"]
    rates = [float(line[3].replace(",", "")) for line in lines[3:6]]
    return table(head, lines), rates[2] > rates[0] * 10, "256 a commit at least ten times 1 a commit"


def subprotocol(settings, _):
    """What lifeline.v1 costs a message: each kind of work with it and without, in turn, on one server."""
    echo = lambda size: ("echo", {"conns": 100, "window": 16, "size": size})
    publish = lambda size: ("broadcast", {"conns": 1000, "window": 4, "size": size})
    works = [
        ("P, onMessage, send(), M: 32 B", None, echo(32)),
        ("P, onMessage, send(), M: 256 B", 1.15, echo(256)),
        ("P, onMessage, send(), M: 1 KiB", 1.15, echo(1024)),
        ("C to 1,000 subscribers: 256 B", None, publish(256)),
        ("C to 1,000 subscribers: 1 KiB", None, publish(1024)),
    ]
    lines, good = [], True
    server = Server(commands()["lifeline"])
    try:
        for title, target, (command, options) in works:
            pairs = []
            for number in range(settings.rounds):
                pair = {}
                for words in ([[], ["--lifeline"]] if number % 2 == 0 else [["--lifeline"], []]):
                    pair[bool(words)] = load(command, *words, server=server, secs=settings.secs, warm=settings.warm, **options)
                pairs.append(pair)
            cost = lambda report: report["server"]["cpu_seconds_per_million"]
            size = lambda report: report["bytes_per_message"]
            ratios = [cost(pair[True]) / cost(pair[False]) for pair in pairs]
            bytes_ratio = median(size(pair[True]) / size(pair[False]) for pair in pairs)
            met = "" if target is None else "met" if max(median(ratios), bytes_ratio) <= target else "**missed**"
            good = good and met != "**missed**"
            lines.append([
                title, "–" if target is None else f"≤ {target:g}", figure(median(cost(pair[False]) for pair in pairs)),
                figure(median(cost(pair[True]) for pair in pairs)),
                f"{median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f})",
                figure(median(size(pair[False]) for pair in pairs), 4), figure(median(size(pair[True]) for pair in pairs), 4),
                f"{bytes_ratio:.3f}", met,
            ])
    finally:
        server.stop()
    head = ["work", "target", "plain, CPU s/M", "lifeline.v1", "ratio", "plain, bytes", "lifeline.v1", "ratio", ""]
    text = table(head, lines)
    text += ("\n\nBytes are those of WebSocket frames, both ways, acknowledgements among them, without TCP/IP. With M and P the"
             " acknowledgements travel both ways; channels have none. 100 connections with 16 messages in flight; 4 publishes in flight.")
    return text, good, "M and P of 256 B or more within 15 % of plain, CPU and bytes"


def resumes(settings, _):
    """How soon a client has again what it missed."""
    server = Server(commands()["lifeline"])
    try:
        load("resume", server=server, resumes=20)
        reports = [load("resume", server=server, resumes=200) for _ in range(settings.rounds)]
    finally:
        server.stop()
    pick = lambda path: median(path(report) for report in reports)
    p99 = pick(lambda report: report["delay_ms"]["p99"])
    lines = [["1,000 of 100 B", f"{200 * len(reports):,}", figure(pick(lambda report: report["delay_ms"]["p50"])), figure(p99),
              figure(pick(lambda report: report["server"]["cpu_ms"]))]]
    head = ["messages to replay", "resumes", "p50 ms", "p99 ms", "server's CPU ms each"]
    text = table(head, lines) + "\n\nFrom `connect()` to R with all messages before it, one client after another; medians of the runs."
    return text, p99 < 50, "p99 < 50 ms"


def own_memory(pid):
    with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as rollup:
        return sum(int(size) for size in re.findall(r"^Pss_(?:Anon|Shmem):\s+(\d+) kB", rollup.read(), re.MULTILINE)) * 1024


def sessions(settings, _):
    """Memory of idle connections with a session and without, and of what they leave behind."""
    options = json.dumps({"resume": {"ttl": 600}})
    seen = {False: [], True: []}
    for _ in range(settings.rounds):
        for lifeline_v1 in seen:
            server = Server(commands()["lifeline"], {"OPTIONS": options})
            try:
                before = own_memory(server.child.pid)
                report = load("idle", *(["--lifeline"] if lifeline_v1 else []), server=server, conns=settings.idle, hold=3)
                time.sleep(2)
                left = (own_memory(server.child.pid) - before) / settings.idle
                seen[lifeline_v1].append((report["server"]["pss_per_connection_end"], left))
            finally:
                server.stop()
    (plain, plain_left), (own, left) = ([median(column) for column in zip(*seen[kind])] for kind in (False, True))
    lines = [["idle connection", figure(plain) + " B", figure(own) + " B", figure(own - plain) + " B"],
             ["after its end", figure(plain_left) + " B", figure(left) + " B", figure(left - plain_left) + " B"]]
    text = table([f"at {settings.idle:,}", "plain", "lifeline.v1", "difference"], lines)
    text += ("\n\nWhat a plain connection leaves behind is the allocator's, for the next one. With lifeline.v1 the session is"
             " there, for `resume.ttl`.")
    return text, own - plain <= 1500, "a session costs at most 1,500 B beside its idle connection"


def staff(settings, _):
    """Callbacks in this process, and in one, two and four workers: CPU is that of all its processes."""
    counts = (0, 1, 2, 4)
    works = [
        ("echo 32 B, 100 conns, 16 in flight", "", {"conns": 100, "window": 16}),
        ("echo 32 B, 100 conns, 1 in flight", "", {"conns": 100, "window": 1}),
        ("some 50 us of PHP, 100 conns, 4 in flight", "hash", {"conns": 100, "window": 4}),
    ]
    servers, seen = {}, {}
    try:
        for count in counts:
            servers[count] = Server(commands()["lifeline"], {"OPTIONS": json.dumps({"workers": count})})
        for number in range(settings.rounds):
            for at, (_, path, options) in enumerate(works):
                for count in (counts if number % 2 == 0 else counts[::-1]):
                    server = types.SimpleNamespace(url=servers[count].url + path, child=servers[count].child)
                    report = load("echo", server=server, size=32, secs=settings.secs, warm=settings.warm, **options)
                    seen.setdefault((at, count), []).append(report)
    finally:
        for server in servers.values():
            server.stop()
    cost = lambda report: report["server"]["cpu_seconds_per_million"]
    pick = lambda key, path: median(path(report) for report in seen[key])
    lines = []
    for at, (title, _, _) in enumerate(works):
        for count in counts:
            hop = median(cost(one) - cost(none) for one, none in zip(seen[at, count], seen[at, 0])) if count else None
            lines.append([
                title, str(count), figure(pick((at, count), lambda report: report["messages_per_second"])),
                figure(pick((at, count), cost)), figure(hop), figure(pick((at, count), lambda report: report["delay_ms"]["p50"])),
                figure(pick((at, count), lambda report: report["delay_ms"]["p99"])),
                figure(pick((at, count), lambda report: report.get("other_cores", 0.0)), 2),
            ])
    head = ["work", "workers", "messages/s", "CPU us each", "more than without", "p50 ms", "p99 ms", "other cores"]
    price = median(cost(one) - cost(none) for one, none in zip(seen[0, 1], seen[0, 0]))
    rate = lambda count: pick((2, count), lambda report: report["messages_per_second"])
    text = table(head, lines)
    text += (f"\n\nThe hop between gateway and worker costs {price:.2f} us of CPU a message there and back, 16 in flight. Two workers do"
             f" {rate(2) / rate(1):.2f} times what one does of the CPU-heavy work, and {rate(2) / rate(0):.2f} times what the process does alone.")
    # What the generator takes is missing from the second core.
    return text, price < 1 and rate(2) > 1.5 * rate(1), "the hop below 1 us at 16 in flight, two workers 1.5 times as fast as one on two cores"


EXTRAS = [
    ("workers", "Callbacks in workers", staff),
    ("linearity", "Linear in connections", linearity),
    ("heartbeats", "Heartbeats with PHP asleep", heartbeats),
    ("crowd", "One machine, several processes, one port (reusePort)", crowd),
    ("queueing", "A peer that reads nothing", queueing),
    ("clients", "The client", clients),
    ("durable", "An outbox on disk", durable),
    ("v1", "lifeline.v1 beside plain messages", subprotocol),
    ("resume", "Resume with messages to replay", resumes),
    ("sessions", "Memory of a session", sessions),
]


def versions(names):
    def first(*command):
        try:
            run = subprocess.run(command, capture_output=True, text=True, cwd=HERE)
        except OSError:
            return "?"
        return (run.stdout or run.stderr).strip().splitlines()[0] if (run.stdout or run.stderr).strip() else "?"

    found = {
        "lifeline": first("git", "describe", "--always", "--dirty"),
        "php": first(PHP, "-n", "-r", "echo PHP_VERSION;"),
        "node": first(NODE, "--version"),
        "ws": first(NODE, "-p", "require('ws/package.json').version + ', bufferutil ' + require('bufferutil/package.json').version"),
        "kernel": platform.release(),
    }
    if "swoole" in names:
        found["swoole"] = first(*commands()["swoole"][:-1], "-r", "echo SWOOLE_VERSION;")
    return found


def machine():
    with open("/proc/cpuinfo", encoding="utf-8") as info:
        model = re.search(r"model name\s*: (.*)", info.read())
    with open("/proc/meminfo", encoding="ascii") as info:
        total = int(re.search(r"MemTotal:\s+(\d+)", info.read())[1]) / 1048576
    return f"{os.cpu_count()} cores ({model[1] if model else 'unknown'}), {total:.0f} GiB"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", default=os.environ.get("QUICK", "") not in ("", "0"))
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--only", default="", help="rows and parts, separated by commas")
    parser.add_argument("--peers", default="", help="beside lifeline and ws; default: all that are installed")
    parser.add_argument("--output", default=os.path.join(HERE, "RESULTS.md"))
    parser.add_argument("--json", help="write everything that was measured here, too")
    settings = parser.parse_args()
    settings.rounds = settings.rounds or (3 if settings.quick else 5)
    settings.secs, settings.warm = (0.8, 0.4) if settings.quick else (3.0, 1.0)
    settings.idle = 2000 if settings.quick else 10000

    peers = commands()
    wanted = [name for name in settings.peers.split(",") if name]
    peers = {name: line for name, line in peers.items() if not wanted or name in (*wanted, "lifeline", "ws")}
    only = [name for name in settings.only.split(",") if name]
    known = [row.name for row in rows(settings)] + [name for name, _, _ in EXTRAS]
    for name in only:
        if name not in known:
            parser.error(f"--only {name}: known are {', '.join(known)}")
    if not shutil.which(LOAD):
        parser.error(f"{LOAD} is missing; scripts/bench.sh builds it")

    begun = time.time()
    done = []
    for row in rows(settings):
        if not only or row.name in only:
            say(row.title)
            measure(row, peers, settings.rounds)
            done.append(row)
    parts, missed = [], []
    for name, title, run in EXTRAS:
        if not only or name in only:
            say(title)
            try:
                text, good, target = run(settings, done)
            except (RuntimeError, OSError, ValueError, IndexError, TypeError, subprocess.SubprocessError) as error:
                text, good, target = f"not measured: {error}", False, "–"
            say(f"  {'met' if good else 'MISSED'}: {target}\n{text}")
            parts.append(f"## {title}\n\nTarget: {target}: {'met' if good else '**missed**'}.\n\n{text}\n")
            if not good:
                missed.append(title)

    for row in done:
        own = summary(row, "lifeline")
        measured = own["ratio"] if row.kind == "ratio" else own["value"]
        if measured is None or measured > row.target:
            missed.append(row.title)
    others = median(one["others"] for row in done for one in [summary(row, name) for name in peers] if one["rounds"])
    mode = "`QUICK=1 make bench`: short runs, fewer connections" if settings.quick else "`make bench`"
    found = ", ".join(f"{name} {version}" for name, version in versions(peers).items())
    head = f"""# Results

Written by {mode} on {datetime.date.today()}, in {(time.time() - begun) / 60:.0f} minutes.
{machine()}; {found}.
{settings.rounds} rounds, interleaved; {settings.secs:g} s each after {settings.warm:g} s. Servers and generator share the machine and speak over
127.0.0.0/8 without TLS or compression. Cost is user and system time of the server's process tree a million messages
(deliveries, connections). All PHP runs with opcache's tracing JIT. Other work took {figure(others, 2)} cores meanwhile (median)"""
    head += ": **the machine was not quiet**, ratios hold better than figures.\n" if others and others > 0.3 else ".\n"
    text = head
    if done:
        text += f"\n## Targets\n\nA ratio is lifeline's figure over that of node ws in the same round.\n\n{target_table(done)}\n"
        text += f"\n## Each server\n\n{detail_table(done, peers)}\n"
    text += "\n" + "\n".join(parts)
    notes = os.path.join(HERE, "NOTES.md")
    if os.path.exists(notes):
        with open(notes, encoding="utf-8") as file:
            text += "\n" + file.read()
    with open(settings.output, "w", encoding="utf-8") as file:
        file.write(text.rstrip() + "\n")
    if settings.json:
        with open(settings.json, "w", encoding="utf-8") as file:
            json.dump({row.name: row.cells for row in done}, file, indent=1)
    if done:
        print(target_table(done))
    print(f"\n{os.path.relpath(settings.output)} written; "
          + (f"{len(missed)} missed: {'; '.join(missed)}" if missed else "all targets met"))


if __name__ == "__main__":
    main()
