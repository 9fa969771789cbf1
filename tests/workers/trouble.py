"""Workers that block, spin, die again and again, or do not start; the others and the clients go on."""

import os
import re
import signal
import tempfile
import time

import harness
from gateway import Client, Gateway, all_open, pids
from harness import LIMIT, check, equal


def in_two(clients):
    """Who is with the same worker as the first, and the others."""
    told = [client.who() for client in clients]
    first = [client for client, one in zip(clients, told) if one["pid"] == told[0]["pid"]]
    others = [client for client, one in zip(clients, told) if one["pid"] != told[0]["pid"]]
    check(first and others, f"one worker has all of {len(clients)} connections")
    return first, others


def test_one_blocks(binary):
    """Only the callbacks of its own connections wait."""
    seconds = 10 if harness.FULL else 3
    gateway = Gateway(2, options={"heartbeat": {"interval": 0.5, "timeout": 5, "mode": "fixed"}})
    gateway.wait_serving()
    clients = gateway.clients(12)
    concerned, others = in_two(clients)
    with tempfile.TemporaryDirectory() as folder:
        gate = os.path.join(folder, "gate")
        concerned[0].order(f"block {gate}")
        gateway.php.wait_event("blocked")
        end = time.monotonic() + seconds
        for client in concerned:
            client.say("waits")
        pings = [client.pings for client in clients]
        echoes = rounds = 0
        while time.monotonic() < end or any(client.pings < before + 2 for client, before in zip(clients, pings)):
            check(time.monotonic() < end + LIMIT, "a client gets no pings")
            for client in others:
                client.ask(f"goes on {echoes}")
                echoes += 1
            for client in clients:
                client.ping(b"%d" % rounds)
            rounds += 1
        # Accepted without PHP, half of them for the worker that is away.
        newcomers = gateway.clients(4)
        equal(len(gateway.php.events("unblocked")), 0, "ends of the block")
        early = sum(client.inbox.qsize() for client in concerned)
        equal(early, 0, "answers of the blocked worker")
        open(gate, "w").close()
        for client in concerned:
            equal(client.hear("answer after the block"), "waits", "answer")
    for client in newcomers:
        client.ask("hello")
    all_open(clients + newcomers)
    told = gateway.workers()
    equal((told["crashes"], told["stuck"], told["lost"]), (0, 0, 0), "crashes, stuck, lost")
    return (
        f"blocked {seconds} s: {len(concerned)} clients waited, {len(others)} had {echoes} echoes; "
        f"{rounds * len(clients)} pings of all were answered, {sum(c.pings for c in clients) - sum(pings)} came"
    )


def test_one_is_stuck(binary):
    """The watchdog replaces it, and its connections move."""
    gateway = Gateway(2, options={"watchdog": {"lag": 1}})
    gateway.wait_serving()
    clients = gateway.clients(8)
    concerned, others = in_two(clients)
    victim = concerned[0].who()["pid"]
    concerned[0].order("spin")
    gateway.php.wait_event("spins")
    for client in others:
        client.ask("goes on")
    told = gateway.wait_serving(stuck=1, crashes=1)
    check(victim not in pids(told), f"the stuck worker is there: {told}")
    for client in concerned:
        now = client.who()
        check(now["resumed"] and now["pid"] != victim, f"{now}")
    for client in others:
        check(not client.who()["resumed"], "a connection of the other worker was moved")
    all_open(clients)
    # Only the order that it was stuck in.
    equal(gateway.workers()["lost"], 1, "lost")
    said = gateway.wait_logged(re.compile(r"worker 1\b|worker 2\b"))
    return f"replaced, {len(concerned)} connections moved; '{said}'"


def test_one_dies_again_and_again(binary):
    """It comes back ever later, its connections go to the other, which is not held up."""
    gateway = Gateway(2, mortal=1)
    gateway.wait_serving()

    def starts():
        return gateway.php.events("listening", worker=1)

    # At once, then after 0.1 s, 0.2 s and so on.
    wanted = 9 if harness.FULL else 7
    clients = []
    deadline = time.monotonic() + 2 * LIMIT
    while len(starts()) < wanted:
        check(time.monotonic() < deadline, f"{len(starts())} of {wanted} starts")
        # The new one has the fewest connections: this one goes there, and its first message is the end of it.
        if len(starts()) > gateway.workers()["crashes"]:
            clients.append(Client(gateway.address))
            clients[-1].say("ends it")
        clients[0].say("more")
        time.sleep(0.05)
    cpu = cpu_seconds(gateway.php.pid)
    times = [start["t"] for start in starts()]
    gaps = [after - before for before, after in zip(times, times[1:])]
    # It is started again at once, then after pauses that double; one that has served for 5 s has not failed.
    pause = 0
    for gap in gaps:
        check(gap >= pause, f"starts come {gaps} s apart: {gap} after a pause of {pause}")
        pause = 0 if gap >= 5 else max(0.1, 2 * pause)
    told = gateway.wait(lambda told: told["crashes"] >= wanted - 1, "crashes")
    check(told["lastError"], f"no lastError: {told}")
    for client in clients[-3:]:
        # Each is with the other worker by now, or will be.
        client.say("after all")
    all_open(clients)
    others = gateway.php.events("listening", worker=2)
    equal(len(others), 1, "starts of the worker that does not die")
    return f"{len(gaps)} restarts, {', '.join(f'{gap:.1f}' for gap in gaps)} s apart, {len(clients)} clients stay; gateway {cpu:.1f} s of CPU"


def cpu_seconds(pid):
    with open(f"/proc/{pid}/stat") as stat:
        fields = stat.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_new_code_that_fails(binary):
    """A reload that cannot be: the old workers stay, and it says why."""
    with tempfile.TemporaryDirectory() as folder:
        broken = os.path.join(folder, "broken")
        gateway = Gateway(2, broken=broken)
        before = gateway.wait_serving()
        clients = gateway.clients(4)
        for client in clients:
            client.ask("before")
        open(broken, "w").close()
        gateway.php.signal(signal.SIGUSR1)
        told = gateway.wait(lambda told: told["failedReloads"] == 1, "failed reload")
        equal((told["reloads"], told["generation"]), (before["reloads"], before["generation"]), "reloads, generation")
        check("no database today" in told["lastError"], f"lastError {told['lastError']!r}")
        gateway.wait_logged(re.compile("no database today"))
        for client in clients:
            client.ask("meanwhile")
            check(not client.who()["resumed"], "moved")
        equal(pids(gateway.wait_serving()), pids(before), "workers")
        os.unlink(broken)
        gateway.reload()
        for client in clients:
            check(client.who()["resumed"], "not moved")
        all_open(clients)
    return told["lastError"].splitlines()[0]
