"""Resident memory of a server under load that lasts."""

import threading
import time

import harness
from harness import LIMIT, Control, Load, check, equal, server

MIB = 1024 * 1024
# What may come on top after the warm-up: the allocator's arenas settle.
SETTLE = 12 * MIB


def mib(size):
    return f"{size / MIB:.1f} MiB"


def grown(php, binary, rounds, *words):
    """Runs `lifeline-load` for a warm-up and then `rounds` times; returns the resident sizes after each."""
    sizes = []
    for _ in range(rounds + 1):
        report = Load(binary, *words).report(timeout=3600)
        check("error" not in report and not report.get("failed"), f"{words[0]}: {report}")
        sizes.append(php.rss())
    equal(php.events("error"), [], "errors")
    flat = max(sizes[1:]) - sizes[0]
    check(flat <= SETTLE, f"grew by {mib(flat)}: " + ", ".join(map(mib, sizes)))
    return sizes


def test_messages(binary):
    rounds = 10
    conns, messages = 50, (2000 if harness.FULL else 200)
    php = server(quiet=True)
    sizes = grown(
        php, binary, rounds, "echo", "--url", php.url(), "--conns", conns, "--messages", messages, "--size", 256,
        "--timeout", 600,
    )
    return f"{conns * messages * rounds} messages: {mib(sizes[0])} -> {mib(sizes[-1])}"


def test_big_messages(binary):
    rounds = 5
    conns, messages = 8, (100 if harness.FULL else 10)
    php = server(quiet=True)
    sizes = grown(
        php, binary, rounds, "echo", "--url", php.url(), "--conns", conns, "--messages", messages,
        "--size", 1024 * 1024, "--window", 1, "--timeout", 600,
    )
    return f"{conns * messages * rounds} messages of 1 MiB: {mib(sizes[0])} -> {mib(sizes[-1])}"


def churn(binary, ending, connects):
    rounds = 5
    php = server(quiet=True)
    sizes = grown(
        php, binary, rounds, "churn", "--url", php.url(), "--connects", connects // rounds, "--concurrency", 32,
        "--ending", ending, "--sources", 50,
    )
    return f"{connects} connects: {mib(sizes[0])} -> {mib(sizes[-1])}"


def test_connects_closed(binary):
    return churn(binary, "close", 100_000 if harness.FULL else 5000)


def test_connects_reset(binary):
    return churn(binary, "reset", 20_000 if harness.FULL else 2000)


def memory_limit(binary, how, count, every):
    """300 that never read while others are told news, 300 that send half a message: the limit holds."""
    # Two fifths more: each connection keeps a small share also over the limit, and the allocator its holes.
    limit = 256 * MIB
    greedy = 300
    neighbours = 20
    php = server(
        quiet=True,
        options={
            "limits": {"memory": limit, "maxMessage": 4 * MIB, "maxFrame": 4 * MIB},
            "send": {"limit": 4 * MIB},
            "heartbeat": {"interval": 5, "timeout": 5},
        },
    )
    url = php.url()
    idle = php.rss()
    news = f"{url}/?news"
    good = Load(
        binary, "hold", "--url", news, "--peers", f"answer={neighbours}", "--secs", 3600, "--messages", count,
        "--until-eof", stdin=True,
    )
    echo = Load(
        binary, "echo", "--url", url, "--conns", 4, "--messages", 10**9, "--every", 0.02, "--size", 1024,
        "--timeout", 3600, "--until-eof", stdin=True,
    )
    good.wait_ready()
    echo.wait_ready()
    control = Control(url)

    highest = [idle]
    over = threading.Event()

    def watch():
        while not over.wait(0.05):
            highest[0] = max(highest[0], php.rss())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        for kind, target in (("deaf", news), ("half", url)):
            bad = Load(binary, "hold", "--url", target, "--peers", f"{kind}={greedy}", "--secs", 3600, "--size", 2 * MIB)
            bad.wait_ready()
        start = time.monotonic()
        control.order(f"{how} {every} 1024 {count}")
        php.wait_event("published", timeout=count * every * 10 + LIMIT)
        took = time.monotonic() - start
    finally:
        over.set()
        watcher.join()
    echo.child.stdin.close()
    echo = echo.report()
    check("error" not in echo, f"echoes beside the greedy ones: {echo}")
    check(echo["messages"] >= 4 * took / 0.02 / 10, f"few echoes in {took:.1f} s: {echo}")
    good.child.stdin.close()
    report = good.report()["kinds"]["answer"]
    equal(report["alive"], neighbours, f"neighbours alive; closed: {report['closed']}")
    equal(report["fewest_messages"], count, "news that each neighbour got")
    equal(php.events("error"), [], "errors")
    check(highest[0] >= limit // 2, f"resident memory rose to {mib(highest[0])} only: the limit was not met")
    check(
        highest[0] <= idle + limit * 7 // 5,
        f"resident memory rose to {mib(highest[0])} from {mib(idle)}, the limit is {mib(limit)}",
    )
    return (
        f"limit {mib(limit)}: resident {mib(idle)} -> {mib(highest[0])} at most; {count} news in {took:.0f} s, "
        f"slowest echo {echo['delay']['max']:.2f} s"
    )


def test_memory_limit_with_broadcasts(binary):
    return memory_limit(binary, "publish", 20_000 if harness.FULL else 3000, 0.002)


def test_memory_limit_with_messages(binary):
    return memory_limit(binary, "each", 4000 if harness.FULL else 1000, 0.01)
