"""System calls, wakes and allocations of a message, bytes of an idle connection.

The limits are what was measured on a quiet machine and a good half more: they catch a second write, a
wake or a copy that came back, not a bad day.
"""

import os
import re
import shutil
import signal
import struct
import subprocess
import tempfile
import time

import harness
from harness import LIMIT, Control, Load, Skip, check, server

SECONDS = 2


def stats(php, control):
    before = len(php.events("stats"))
    control.order("stats")
    return php.wait_event("stats", before + 1)[-1]["stats"]


def messages(binary, php, control, window, meanwhile, size=32):
    """Echoes for a while; returns the messages that the server counted and what `meanwhile` measured."""
    before, start = meanwhile(), stats(php, control)["messages"]["in"]
    report = Load(
        binary, "echo", "--url", php.url(), "--conns", 20, "--window", window, "--size", size, "--secs", SECONDS,
        "--warm", 0, "--json",
    ).report(LIMIT)
    check(report["failed"] == 0, f"echoes failed: {report['errors']}")
    count = stats(php, control)["messages"]["in"] - start
    after = meanwhile()
    check(count >= report["messages"] > 0, f"the server counted {count} messages, the peers {report['messages']}")
    return count, before, after


def switches(process):
    """How often threads went to sleep: each time something had to wake them."""
    total = 0
    for thread in os.listdir(f"/proc/{process}/task"):
        with open(f"/proc/{process}/task/{thread}/status", encoding="ascii", errors="replace") as status:
            total += int(re.search(r"^voluntary_ctxt_switches:\s+(\d+)", status.read(), re.M)[1])
    return total


def traced(php, work):
    """What `work` returns, and how often the server made each system call meanwhile."""
    if shutil.which("strace") is None:
        raise Skip("strace is not installed")
    with tempfile.NamedTemporaryFile("r") as table:
        trace = subprocess.Popen(
            ["strace", "-f", "-c", "-p", str(php.pid), "-o", table.name], stderr=subprocess.PIPE, text=True
        )
        try:
            line = trace.stderr.readline()
            if "attached" not in line:
                raise Skip(f"strace cannot attach: {line.strip()}")
            done = work()
        finally:
            trace.send_signal(signal.SIGINT)
            trace.wait(LIMIT)
            trace.stderr.close()
        text = table.read()
    calls = {}
    for row in text.splitlines():
        words = row.split()
        if len(words) >= 5 and words[0].replace(".", "").isdigit() and words[3].isdigit():
            calls[words[-1]] = int(words[3])
    check(calls, f"strace counted nothing:\n{text}")
    return done, calls


READS = ("recvfrom", "recvmsg", "read", "readv")
WRITES = ("sendto", "sendmsg", "write", "writev")


def each_of(calls, count, what, limits):
    """Checks reads, writes and waits of one `what` against `limits`."""
    reads = sum(calls.get(name, 0) for name in READS) / count
    writes = sum(calls.get(name, 0) for name in WRITES) / count
    waiting = ("epoll_", "poll", "ppoll", "futex")
    waits = sum(value for name, value in calls.items() if name.startswith(waiting)) / count
    figures = f"{reads:.2f} reads, {writes:.2f} writes, {waits:.2f} waits a {what} ({count} {what}s)"
    for name, value, limit in (("reads", reads, limits[0]), ("writes", writes, limits[1]), ("waits", waits, limits[2])):
        check(value <= limit, f"{name}: {value:.2f} a {what}, at most {limit}; {figures}: {calls}")
    return figures


def system_calls(binary, window, limits):
    php = server(quiet=True)
    control = Control(php.url())
    stats(php, control)
    (count, _, _), calls = traced(php, lambda: messages(binary, php, control, window, lambda: None))
    return each_of(calls, count, "message", limits)


def test_system_calls_of_a_handshake(binary):
    php = server(quiet=True)
    control = Control(php.url())
    before = stats(php, control)["connections"]["opened"]

    def work():
        report = Load(
            binary, "handshake", "--url", php.url(), "--concurrency", 16, "--secs", SECONDS, "--warm", 0, "--json"
        ).report(LIMIT)
        check(report["failed"] == 0, f"handshakes failed: {report['errors']}")
        return stats(php, control)["connections"]["opened"] - before

    count, calls = traced(php, work)
    check(count > 100, f"{count} connections")
    each = {name: value / count for name, value in calls.items()}
    # The request and the close frame in, the answer and the close frame out, the end with the latter.
    limits = {"recvfrom": 2.2, "sendto": 2.2, "shutdown": 0.05, "close": 1.1, "epoll_ctl": 1.2, "accept4": 1.9}
    figures = ", ".join(f"{each.get(name, 0):.2f} {name}" for name in limits)
    for name, limit in limits.items():
        check(each.get(name, 0) <= limit, f"{name}: at most {limit} a connection; {figures}")
    return f"{figures} a connection ({count})"


def test_system_calls_one_in_flight(binary):
    return system_calls(binary, 1, (1.15, 1.15, 2.5))


def test_system_calls_sixteen_in_flight(binary):
    return system_calls(binary, 16, (0.3, 0.3, 0.3))


def test_system_calls_of_beats(binary):
    conns, interval = 1000, 4
    php = server(quiet=True, options={"heartbeat": {"interval": interval, "timeout": 10}})
    control = Control(php.url())
    stats(php, control)
    load = Load(binary, "idle", "--url", php.url(), "--conns", conns, "--hold", 3 * interval, "--json")
    # Until all are open, and the first beats, at random moments, are over.
    until = time.monotonic() + LIMIT
    while stats(php, control)["connections"]["open"] <= conns:
        check(time.monotonic() < until, "connections did not open")
        time.sleep(0.05)
    time.sleep(interval)
    # PHP sleeps in a callback: it is the I/O threads that beat.
    control.order(f"sleep {interval + 2}")
    php.wait_event("blocked")
    _, calls = traced(php, lambda: time.sleep(interval))
    report = load.report(LIMIT)
    check(report["failed"] == 0, f"beats failed: {report['errors']}")
    # Beats of one crowd are written together and their answers read together.
    return each_of(calls, conns, "beat", (1.25, 1.25, 0.5))


def wakes(binary, window, limit):
    php = server(quiet=True)
    control = Control(php.url())
    count, before, after = messages(binary, php, control, window, lambda: switches(php.pid))
    each = (after - before) / count
    check(each <= limit, f"{each:.3f} wakes a message, at most {limit} ({count} messages)")
    return f"{each:.3f} wakes a message ({count} messages)"


def test_wakes_one_in_flight(binary):
    return wakes(binary, 1, 1.2)


def test_wakes_sixteen_in_flight(binary):
    return wakes(binary, 16, 0.25)


def faults(process):
    """Pages that the process touched for the first time, or again after it had given them back."""
    with open(f"/proc/{process}/stat", encoding="ascii", errors="replace") as stat:
        return int(stat.read().rpartition(")")[2].split()[7])


def test_page_faults_of_long_messages(binary):
    limit = 2.0
    php = server(quiet=True)
    control = Control(php.url())
    # The first run fills what is kept.
    messages(binary, php, control, 1, lambda: None, 65536)
    count, before, after = messages(binary, php, control, 1, lambda: faults(php.pid), 65536)
    each = (after - before) / count
    check(each <= limit, f"{each:.2f} page faults a message of 64 KiB, at most {limit} ({count} messages)")
    return f"{each:.2f} page faults a message of 64 KiB ({count} messages)"


def allocations(binary, window, limit):
    compiler = shutil.which("cc")
    if compiler is None:
        raise Skip("no C compiler")
    with tempfile.TemporaryDirectory() as folder:
        library, counter = os.path.join(folder, "count.so"), os.path.join(folder, "count")
        source = os.path.join(os.path.dirname(os.path.abspath(__file__)), "count.c")
        subprocess.run([compiler, "-O2", "-shared", "-fPIC", "-o", library, source], check=True)
        php = server(("env", f"LD_PRELOAD={library}", f"COUNT_FILE={counter}"), quiet=True)
        control = Control(php.url())

        def counted():
            with open(counter, "rb") as file:
                return struct.unpack("=Q", file.read(8))[0]

        check(counted() > 0, "the counter did not start")
        # The first run fills what is kept.
        messages(binary, php, control, window, lambda: None)
        count, before, after = messages(binary, php, control, window, counted)
        each = (after - before) / count
        # Connections were opened meanwhile, too.
        check(after > before, "allocations are not counted")
        check(each <= limit, f"{each:.3f} allocations a message, at most {limit} ({count} messages)")
        return f"{each:.3f} allocations a message ({count} messages)"


def test_allocations_one_in_flight(binary):
    return allocations(binary, 1, 3.5)


def test_allocations_sixteen_in_flight(binary):
    return allocations(binary, 16, 3.5)


def test_idle_connections(binary):
    conns, limit = 2000, 2300
    php = server(quiet=True)
    control = Control(php.url())
    stats(php, control)
    report = Load(
        binary, "idle", "--url", php.url(), "--conns", conns, "--hold", 1, "--server-pid", php.pid, "--json"
    ).report(LIMIT)
    check(report["failed"] == 0 and report["open"] == conns, f"{report['open']} of {conns} open: {report['errors']}")
    each = report["server"]["pss_per_connection_end"]
    check(0 < each <= limit, f"{each:.0f} B a connection, at most {limit}")
    # What the connections took is free for the next ones.
    until = time.monotonic() + LIMIT
    while stats(php, control)["connections"]["open"] > 1:
        check(time.monotonic() < until, "connections did not end")
        time.sleep(0.05)
    before = php.rss()
    report = Load(binary, "idle", "--url", php.url(), "--conns", conns, "--hold", 1, "--json").report(LIMIT)
    check(report["failed"] == 0, f"second round: {report['errors']}")
    again = (php.rss() - before) / conns
    check(again <= limit, f"the second {conns} took {again:.0f} B each, at most {limit}")
    return f"{each:.0f} B a connection"
