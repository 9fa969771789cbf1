"""On the socket between gateway and worker is said what no worker says: it is refused, and the gateway goes on.

The framing is that of crates/engine/src/workers/wire.rs: a length of four bytes, little-endian, and what it counts.
"""

import base64
import os
import random
import re
import signal
import tempfile
import time

from gateway import Gateway, all_open, pids
from harness import LIMIT, ROOT, check, equal

LARGEST = 1 << 30
# The same of a greeting.
GREETING = 64 * 1024


def frame(body, length=None):
    return (len(body) if length is None else length).to_bytes(4, "little") + body


def build():
    with open(os.path.join(ROOT, "Cargo.toml")) as manifest:
        return re.search(r'^version = "(.*?)"', manifest.read(), re.M)[1]


def greeting(version=1, build_of=None):
    name = (build_of or build()).encode()
    # Hello, without any callback that asks.
    return frame(b"lifeline-worker" + version.to_bytes(2, "little") + bytes([len(name)]) + name + bytes(6))


# What is said, by whom, what it does then, what is logged.
STRANGERS = {
    "garbage": (b"\xf0" * 300, "self", "wait", r"a frame of \d+ bytes"),
    "text": (frame(b"GET / HTTP/1.1"), "self", "wait", r"does not begin with a worker's greeting"),
    "truncated": (frame(b"lifeline-worker", 100), "self", "end", r"the last \d+ bytes on its socket are no whole frame"),
    "oversized": (frame(b"lifeline-worker", GREETING + 1), "self", "wait", rf"a frame of {GREETING + 1} bytes, allowed are 1 to {GREETING}\b"),
    "empty": (frame(b""), "self", "wait", r"a frame of 0 bytes"),
    "version": (greeting(version=99), "self", "wait", r"speaks version 99 .* restart the server"),
    "build": (greeting(build_of="0.0.1"), "self", "wait", r"lifeline 0\.0\.1, this process has .* restart the server"),
    "greeting": (frame(greeting()[4:-6] + b"\x63"), "self", "wait", r"cannot be read as a greeting"),
    "message": (greeting() + frame(b"\xff" * 20), "self", "wait", r"cannot be read"),
    "oversized_message": (greeting() + frame(b"", 0xFFFF_FFFF), "self", "wait", rf"a frame of 4294967295 bytes, allowed are 1 to {LARGEST}\b"),
    "truncated_message": (greeting() + frame(b"\x03", 5000), "self", "end", r"the last \d+ bytes on its socket are no whole frame"),
    "other_process": (greeting(), "child", "wait", r"process \d+ of user \d+ speaks, wanted is process \d+"),
}


def stranger(what):
    said, by, then, pattern = STRANGERS[what]
    with tempfile.TemporaryDirectory() as folder:
        return confront(said, by, then, pattern, os.path.join(folder, "when"))


def confront(said, by, then, pattern, when):
    gateway = Gateway(2, script="rude.php", bytes=base64.b64encode(said).decode(), by=by, then=then, when=when)
    [first] = [worker["pid"] for worker in gateway.wait_serving()["list"] if worker["number"] == 1]
    clients = gateway.clients(4)
    for client in clients:
        client.ask("before")
    # From now on there is none that serves in its place.
    open(when, "w").close()
    os.kill(first, signal.SIGKILL)
    rude = gateway.php.wait_event("rude")[0]["pid"]
    line = gateway.wait_logged(re.compile(f"worker 1 .* ({pattern})", re.S))
    # Ended, and tried again.
    gateway.php.wait_event("rude", count=2)
    gateway.wait(lambda told: rude not in pids(told), f"end of process {rude}, which is no worker")
    for client in clients:
        client.ask("after")
    newcomer = gateway.clients(1)[0]
    # The stranger may have greeted, and so got the first of these.
    deadline = time.monotonic() + LIMIT
    while newcomer.inbox.empty():
        check(time.monotonic() < deadline, "no answer to a newcomer")
        newcomer.say("hello")
        time.sleep(0.05)
    all_open([*clients, newcomer])
    told = gateway.workers()
    check(re.search(pattern, told["lastError"] or ""), f"lastError {told['lastError']!r}")
    equal(len(gateway.php.events("listening", worker=2)), 1, "starts of the other worker")
    gateway.php.kill()
    return line


def make(what):
    def test(binary):
        return f"'{stranger(what)}'"

    return test


for name in STRANGERS:
    globals()[f"test_{name}"] = make(name)


def test_from_a_worker_that_serves(binary):
    """Its connections move, and stay."""
    chance = random.Random(7)
    gateway = Gateway(2)
    gateway.wait_serving()
    clients = gateway.clients(8)
    for round, said in enumerate((frame(b"\xff\xff\xff"), frame(b"", LARGEST + 1), chance.randbytes(3) + b"\xff")):
        before = clients[0].who()
        clients[0].order(f"rude {base64.b64encode(said).decode()}")
        told = gateway.wait_serving(crashes=round + 1)
        check(before["pid"] not in pids(told), f"the rude worker is there: {told}")
        for client in clients:
            client.ask("after")
        now = clients[0].who()
        check(now["resumed"] and now["pid"] != before["pid"], f"{before} became {now}")
    all_open(clients)
    return f"{round + 1} workers ended, {len(clients)} clients stay; '{told['lastError']}'"
