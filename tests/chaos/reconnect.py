"""Servers that die and come back: clients return fast, and politely when they are many."""

import asyncio
import base64
import hashlib
import random
import socket
import statistics
import struct
import threading
import time

import harness
from harness import LIMIT, check, client, equal, host_port, server

# The defaults of reconnect.* that shape the schedule.
FIRST = 0.1
BASE = 0.5
FLOOR = 0.05
MAX = 30
FACTOR = 2
# Delays are logged as they were drawn; this is for rounding.
EXACT = 1e-6


def follows_policy(attempts, first, stable=True):
    """Checks the delays of one outage, in order. Dials are counted since the last stable connection."""
    for number, event in enumerate(attempts, 1):
        low, high = (0, first) if number == 1 else (FLOOR, min(MAX, BASE * FACTOR ** (number - 2)))
        check(event["delay"] is not None, f"no delay in {event}")
        check(low - EXACT <= event["delay"] <= high + EXACT, f"delay {number} is not in {low}..{high}: {event}")
        equal(event["attempt"], number if stable else number + 1, f"attempt of {event}")


def outages(states):
    """The Reconnecting transitions between each two Connected ones."""
    found = [[]]
    for event in states:
        if event["to"] == "Connected":
            found.append([])
        elif event["to"] == "Reconnecting":
            found[-1].append(event)
    return found


def test_server_killed_again_and_again(binary):
    """Clients that know nothing of each other; more than one only to learn more from each restart."""
    restarts = 50 if harness.FULL else 5
    clients = 20
    longest = 0.3
    # How long a link must live for the count of attempts to start anew; the default takes 5 s.
    stable = 5.0 if harness.FULL else 0.3
    dice = random.Random(4711)
    lengths = [longest * (number + 0.5) / restarts for number in range(restarts)]
    dice.shuffle(lengths)
    php = server()
    listen = f"ws://{host_port(php.url())}"
    options = {} if harness.FULL else {"reconnect": {"stableAfter": stable}}
    peer = client(url=f"{listen}/", count=clients, options=options)
    peer.wait_event("state", count=clients, to="Connected")
    php.wait_event("open", count=clients)
    back = []
    for restart, length in enumerate(lengths, 1):
        # Started before the kill: the length of the outage is not PHP's start-up.
        following = server(listen=listen, wait=True)
        following.wait_event("waiting")
        time.sleep(stable * 1.1)
        php.kill()
        time.sleep(length)
        following.go()
        opened = following.wait_event("listening")[0]["t"]
        connected = peer.wait_event("state", count=clients * (restart + 1), to="Connected")[-clients:]
        following.wait_event("open", count=clients)
        back += [event["t"] - opened for event in connected]
        php = following
    states = peer.events("state")
    for number in range(clients):
        own = [event for event in states if event["client"] == number]
        lost = outages(own)[1:-1]
        equal(len(lost), restarts, f"outages seen by client {number}")
        for attempts in lost:
            check(attempts, f"client {number}: an outage without a Reconnecting transition")
            follows_policy(attempts, FIRST)
    # One socket at a time: the last server saw each client once, and still has it.
    equal(len(php.events("open")), clients, "connections to the last server")
    equal(len({event["client"] for event in php.events("open")}), clients, "different clients")
    equal(php.events("close"), [], "connections closed by the last server")
    equal(php.events("double"), [], "double connections")
    median = statistics.median(back)
    # Few restarts say little of the median; the promise is checked by many.
    limit = 0.25 if harness.FULL else 0.5
    check(median <= limit, f"back after {median * 1000:.0f} ms in the median")
    return f"{restarts} restarts, {clients} clients: back after {median * 1000:.0f} ms in the median, {max(back) * 1000:.0f} ms at most"


class Doomed:
    """A server of few words: accepts, advertises a spread, then dies with all its connections."""

    def __init__(self, spread):
        self.spread = spread
        self.writers = []
        self.ready = threading.Event()
        self.enough = threading.Condition()
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()
        check(self.ready.wait(LIMIT), "the doomed server did not start")

    def _run(self):
        asyncio.set_event_loop(self.loop)
        self.server = self.loop.run_until_complete(
            asyncio.start_server(self._serve, "127.0.0.1", 0, backlog=4096)
        )
        self.port = self.server.sockets[0].getsockname()[1]
        self.ready.set()
        self.loop.run_forever()

    async def _serve(self, reader, writer):
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            fields = (line.split(b": ", 1) for line in head.split(b"\r\n") if b": " in line)
            key = next(value for name, value in fields if name.lower() == b"sec-websocket-key")
            accept = base64.b64encode(hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
            writer.write(
                b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Accept: " + accept + b"\r\nLifeline-Spread: " + str(self.spread).encode() + b"\r\n\r\n"
            )
            with self.enough:
                self.writers.append(writer)
                self.enough.notify_all()
            await reader.read()
        except (OSError, asyncio.IncompleteReadError):
            pass

    def wait(self, count):
        with self.enough:
            check(self.enough.wait_for(lambda: len(self.writers) >= count, LIMIT), f"{len(self.writers)} of {count} came")
            equal(len(self.writers), count, "connections to the doomed server")

    def die(self):
        """Resets every connection and closes the port."""

        def end():
            self.server.close()
            for writer in self.writers:
                # With it an abort is a reset.
                linger = struct.pack("ii", 1, 0)
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                writer.transport.abort()
            # An abort takes one more turn of the loop.
            self.loop.call_later(0, self.loop.call_soon, self.loop.stop)

        self.loop.call_soon_threadsafe(end)
        self.thread.join(LIMIT)
        check(not self.thread.is_alive(), "the doomed server lives on")
        self.loop.close()


def crowded(times, width):
    """The most of these times that fall into any window of that width."""
    times = sorted(times)
    most = start = 0
    for end, time_ in enumerate(times):
        while time_ - times[start] > width:
            start += 1
        most = max(most, end - start + 1)
    return most


def test_crowd_comes_back_spread(binary):
    count = 2000 if harness.FULL else 1000
    processes = 4 if harness.FULL else 2
    spread = 2
    doomed = Doomed(spread)
    url = f"ws://127.0.0.1:{doomed.port}/"
    each = count // processes
    crowd = [client(url=url, count=each, first=number * each) for number in range(processes)]
    doomed.wait(count)
    for php in crowd:
        php.wait_event("state", count=each, to="Connected")
    doomed.die()
    following = server(listen=f"ws://127.0.0.1:{doomed.port}")
    opened = following.url() and following.events("listening")[0]["t"]
    opens = following.wait_event("open", count=count)

    planned = []
    for php in crowd:
        states = php.wait_event("state", count=2 * each, to="Connected") and php.events("state")
        for number in {event["client"] for event in states}:
            first, *rest = outages([event for event in states if event["client"] == number])[1:]
            check(first, f"client {number} lost nothing")
            follows_policy(first, spread, stable=False)
            check(not any(rest), f"client {number} was lost again: {rest}")
            planned.append(first[0]["t"] + first[0]["delay"])
    equal(len(planned), count, "schedules logged")
    most = crowded(planned, 0.1)
    check(most <= count / 10, f"{most} of {count} planned their return within 100 ms")
    width = max(planned) - min(planned)
    check(width >= spread / 2, f"all planned their return within {width:.2f} s")

    equal(following.events("double"), [], "double connections")
    equal(len(following.events("open")), count, "connections to the following server")
    equal(len({event["client"] for event in opens}), count, "different clients that came back")
    equal(following.events("close"), [], "connections closed")
    arrived = max(event["t"] for event in opens) - opened
    return (
        f"{count} clients planned their return over {width:.2f} s, at most {100 * most / count:.1f} % within "
        f"100 ms; all back {arrived:.2f} s after the port was open"
    )
