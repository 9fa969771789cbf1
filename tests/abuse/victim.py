"""A server under abuse, its well-behaved neighbours, and the sockets of those who abuse it."""

import os
import re
import resource
import select
import socket
import ssl
import threading
import time

from harness import LIMIT, Control, Php, Skip, check, equal, host_port

MIB = 1024 * 1024
NEIGHBOURS = 20
# How much resident memory the server may need more than before the abuse began, where a test says
# nothing else.
GROWTH = 48 * MIB
# Likewise of processor time, in seconds: a debug build needs ten times what a release build does.
CPU = 15.0
# Descriptors that the server's threads open for themselves when they are first needed.
OWN = 16
# What the neighbours cost, in seconds of processor time a second.
NEIGHBOURLY = 0.5


def allow_descriptors(count):
    """For this process and the server that it starts."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < count:
        raise Skip(f"{count} file descriptors are needed, {hard} are allowed")
    if soft < count:
        resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))


def frame(opcode, payload=b"", fin=True, rsv=0, masked=True):
    """A frame as a client sends it, masked with zeros."""
    length = len(payload)
    mask = 0x80 if masked else 0
    head = bytes([(0x80 if fin else 0) | rsv << 4 | opcode])
    if length < 126:
        head += bytes([mask | length])
    elif length < 65536:
        head += bytes([mask | 126]) + length.to_bytes(2, "big")
    else:
        head += bytes([mask | 127]) + length.to_bytes(8, "big")
    return head + (b"\0\0\0\0" if masked else b"") + payload


def request(address, path="/", headers=""):
    return (
        f"GET {path} HTTP/1.1\r\nHost: {address}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n{headers}\r\n"
    ).encode()


def dial(address, receive_buffer=None, tls=None):
    host, port = address.rsplit(":", 1)
    link = socket.socket()
    link.settimeout(LIMIT)
    if receive_buffer:
        link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    link.connect((host, int(port)))
    return tls.wrap_socket(link, server_hostname=host) if tls else link


def read_status(link):
    """The status of the answer to a request, and what came behind its head."""
    head = b""
    while b"\r\n\r\n" not in head:
        more = link.recv(4096)
        check(more, f"end of stream after {head!r}")
        head += more
    return int(head.split(b" ", 2)[1]), head.split(b"\r\n\r\n", 1)[1]


class Peer:
    """A connection that does with frames as it is told."""

    def __init__(self, address, path="/", receive_buffer=None, headers="", tls=None):
        self.link = dial(address, receive_buffer, tls)
        self.link.sendall(request(address, path, headers))
        status, rest = read_status(self.link)
        # What is taken from its front costs nothing.
        self.data = bytearray(rest)
        equal(status, 101, "status")

    def send(self, data):
        self.link.sendall(data)

    def _take(self, count):
        while len(self.data) < count:
            more = self.link.recv(65536)
            check(more, "the server ended the stream")
            self.data += more
        part = bytes(self.data[:count])
        del self.data[:count]
        return part

    def read_frame(self):
        first, length = self._take(2)
        if length == 126:
            length = int.from_bytes(self._take(2), "big")
        elif length == 127:
            length = int.from_bytes(self._take(8), "big")
        return first & 0x0F, self._take(length)

    def read(self, opcode):
        """The payload of the next such frame; pings are answered."""
        deadline = time.monotonic() + LIMIT
        while True:
            got, payload = self.read_frame()
            if got == opcode:
                return payload
            check(time.monotonic() < deadline, f"no frame of type {opcode}")
            if got == 9:
                self.send(frame(0xA, payload))
            check(got in (9, 0xA), f"a frame of type {got} ({payload[:40]!r}) in place of {opcode}")

    def close_code(self):
        return int.from_bytes(self.read(8)[:2], "big")

    def end(self):
        """The code of the server's close frame, whatever it sends before; None when it ends without one."""
        try:
            while True:
                opcode, payload = self.read_frame()
                if opcode == 8:
                    return int.from_bytes(payload[:2], "big")
        except (AssertionError, OSError):
            return None

    def drop(self):
        self.link.close()


class Neighbours:
    """Well-behaved peers that talk all the time, each with a message and a ping under way: what was lost is counted.

    `tls`: an SSLContext."""

    def __init__(self, address, count=NEIGHBOURS, tls=None):
        self.peers = [Peer(address, tls=tls) for _ in range(count)]
        self.by_number = {}
        self.round_trips = self.beats = self.closes = self.server_beats = 0
        self.slowest = self.slowest_beat = 0.0
        self.trouble = []
        self.stopping = threading.Event()
        self.wake = os.pipe()
        for peer in self.peers:
            peer.link.setblocking(False)
            peer.buffer = bytearray(peer.data)
            peer.outgoing = bytearray()
            peer.number = 0
            peer.echo = peer.beat = None
            peer.gone = False
            self.by_number[peer.link.fileno()] = peer
        self.thread = threading.Thread(target=self._run, daemon=True)

    def start(self):
        self.thread.start()

    def _flush(self, peer):
        try:
            while peer.outgoing:
                del peer.outgoing[: peer.link.send(peer.outgoing)]
        except (BlockingIOError, ssl.SSLWantWriteError, ssl.SSLWantReadError):
            pass
        except OSError as error:
            self._lose(peer, repr(error))

    def _lose(self, peer, why):
        if not peer.gone:
            peer.gone = True
            self.closes += 1
            self.trouble.append(why)

    def _take(self, peer):
        try:
            while True:
                more = peer.link.recv(65536)
                if not more:
                    self._lose(peer, "the server ended the stream")
                    return
                peer.buffer += more
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            pass
        except OSError as error:
            self._lose(peer, repr(error))
        now = time.monotonic()
        while len(peer.buffer) >= 2 and len(peer.buffer) >= 2 + (length := peer.buffer[1] & 0x7F):
            opcode, payload = peer.buffer[0] & 0x0F, bytes(peer.buffer[2 : 2 + length])
            del peer.buffer[: 2 + length]
            if opcode == 1 and peer.echo and payload == peer.echo[0]:
                self.round_trips += 1
                self.slowest = max(self.slowest, now - peer.echo[1])
                peer.echo = None
            elif opcode == 0xA and peer.beat and payload == peer.beat[0]:
                self.beats += 1
                self.slowest_beat = max(self.slowest_beat, now - peer.beat[1])
                peer.beat = None
            elif opcode == 9:
                self.server_beats += 1
                peer.outgoing += frame(0xA, payload)
                self._flush(peer)
            else:
                self._lose(peer, f"a frame of type {opcode}: {payload!r}")

    def _run(self):
        watch = select.poll()
        for number in self.by_number:
            watch.register(number, select.POLLIN)
        until = None
        while True:
            if self.stopping.is_set():
                until = until or time.monotonic() + LIMIT
                if all(peer.gone or not (peer.echo or peer.beat) for peer in self.peers) or time.monotonic() > until:
                    return
            else:
                now = time.monotonic()
                for peer in self.peers:
                    if peer.gone:
                        continue
                    if peer.echo is None:
                        peer.number += 1
                        peer.echo = (f"round {peer.number}".encode(), now)
                        peer.outgoing += frame(1, peer.echo[0])
                    if peer.beat is None:
                        peer.number += 1
                        peer.beat = (f"beat {peer.number}".encode(), now)
                        peer.outgoing += frame(9, peer.beat[0])
                    self._flush(peer)
            for number, _ in watch.poll(50):
                peer = self.by_number[number]
                self._take(peer)
                if peer.gone:
                    watch.unregister(number)
            # No more than 20 rounds a second.
            if not self.stopping.is_set():
                self.stopping.wait(0.05)

    def finish(self):
        """Ends the talk; what became of it in words."""
        self.stopping.set()
        self.thread.join(2 * LIMIT)
        check(not self.thread.is_alive(), "the neighbours do not end")
        lost = sum(peer.echo is not None for peer in self.peers)
        unanswered = sum(peer.beat is not None for peer in self.peers)
        said = (
            f"{len(self.peers)} neighbours: {self.round_trips} echo round trips, lost: {lost}, closes: {self.closes}, "
            f"{self.beats} beats, unanswered: {unanswered}, slowest echo {self.slowest:.2f} s, beat {self.slowest_beat:.2f} s"
        )
        check((lost, self.closes, unanswered) == (0, 0, 0), f"{said}; {self.trouble[:3]}")
        check(self.round_trips >= len(self.peers) and self.beats >= len(self.peers), f"they had nothing to say: {said}")
        return said


def listening(pid):
    """The TCP ports that a process listens on, of 127.0.0.1."""
    sockets = set()
    for name in os.listdir(f"/proc/{pid}/fd"):
        try:
            sockets.add(os.readlink(f"/proc/{pid}/fd/{name}"))
        except OSError:
            pass
    ports = set()
    with open(f"/proc/{pid}/net/tcp") as table:
        for row in list(table)[1:]:
            fields = row.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in sockets:
                ports.add(int(fields[1].rsplit(":", 1)[1], 16))
    return ports


class Process:
    """What a process has used since this was made."""

    def __init__(self, pid):
        self.pid = pid
        self.began = time.monotonic()
        self.before = self._status("VmRSS")
        self.cpu_before = self._cpu()
        # The peak is from now on.
        with open(f"/proc/{pid}/clear_refs", "w") as file:
            file.write("5")

    def _status(self, name):
        with open(f"/proc/{self.pid}/status") as status:
            return int(re.search(rf"^{name}:\s+(\d+)", status.read(), re.M).group(1)) * 1024

    def _cpu(self):
        with open(f"/proc/{self.pid}/stat") as stat:
            fields = stat.read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def descriptors(self):
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def check(self, what, growth, cpu):
        """The cost in words; fails beyond `growth` bytes of memory and `cpu` seconds."""
        peak, used, passed = self._status("VmHWM"), self._cpu() - self.cpu_before, time.monotonic() - self.began
        grown = max(peak - self.before, 0)
        said = (
            f"{what}; peak {peak / MIB:.1f} MiB, {grown / MIB:.1f} more than before (allowed {growth / MIB:.0f}); "
            f"CPU {used:.2f} s of {passed:.1f} s (allowed {cpu:.0f})"
        )
        check(grown <= growth, f"too much memory: {said}")
        check(used <= cpu, f"too much CPU: {said}")
        return said


class Victim:
    """The server with its neighbours, who talk all the time until `finish`.

    `growth`: bytes that it may need more than before; `cpu`: seconds of processor time, beside what the
    neighbours cost. `tls`: the SSLContext of those who come; config: options.tls, listen (ws, then wss)."""

    def __init__(self, options=None, growth=GROWTH, cpu=CPU, tls=None, script="server.php", settings=(), **config):
        self.growth = growth
        self.cpu = cpu
        options = {"options": options or {}, "quiet": True, "wait": True, **config}
        self.php = Php(script, options, settings=settings)
        self.php.wait_event("waiting")
        self.php.go()
        self.url = self.php.url()
        self.address = host_port(self.url)
        self.control = Control(self.url)
        if tls:
            # PHP is told of the first address only; the other listener is the one with TLS.
            [port] = listening(self.php.pid) - {int(self.address.rsplit(":", 1)[1])}
            self.address = f"127.0.0.1:{port}"
        self.neighbours = Neighbours(self.address, tls=tls)
        self.usage = Process(self.php.pid)
        self.descriptors = self.usage.descriptors()
        self.neighbours.start()

    def block(self):
        """PHP does nothing until `unblock`."""
        self.control.order("block")
        self.php.wait_event("blocked")

    def unblock(self):
        self.php.go()
        self.php.wait_event("unblocked")

    def stats(self):
        seen = len(self.php.events("stats"))
        self.control.order("stats")
        return self.php.wait_event("stats", count=seen + 1)[-1]["stats"]

    def wait_gone(self):
        """Until nobody but the neighbours and the control connection is there, and their sockets are closed."""
        deadline = time.monotonic() + LIMIT
        while True:
            seen = self.stats()["connections"]
            descriptors = self.usage.descriptors()
            if seen["open"] == NEIGHBOURS + 1 and seen["handshaking"] == 0 and descriptors <= self.descriptors + OWN:
                return seen
            check(time.monotonic() < deadline, f"connections stay: {seen}, descriptors {self.descriptors} -> {descriptors}")
            time.sleep(0.05)

    def finish(self, what, errors=0):
        """Ends the test; returns its line. `errors`: how many PHP is to be told of (None: any number)."""
        told = self.neighbours.finish()
        seconds = time.monotonic() - self.usage.began
        said = f"{self.usage.check(what, self.growth, self.cpu + NEIGHBOURLY * seconds)}; {told}"
        if errors is not None:
            equal(len(self.php.events("error")), errors, "errors in PHP")
        return said
