"""A server under abuse, its well-behaved neighbours, and the sockets of those who abuse it."""

import os
import re
import resource
import socket
import threading
import time

from harness import LIMIT, Control, Skip, check, equal, host_port, server

MIB = 1024 * 1024
NEIGHBOURS = 20
# How much resident memory the server may need more than before the abuse began, where a test says
# nothing else.
GROWTH = 48 * MIB


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


def dial(address, receive_buffer=None):
    host, port = address.rsplit(":", 1)
    link = socket.socket()
    link.settimeout(LIMIT)
    if receive_buffer:
        link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    link.connect((host, int(port)))
    return link


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

    def __init__(self, address, path="/", receive_buffer=None):
        self.link = dial(address, receive_buffer)
        self.link.sendall(request(address, path))
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

    def drop(self):
        self.link.close()


class Victim:
    """The server with its neighbours, who talk all the time until `finish`."""

    def __init__(self, options=None, growth=GROWTH, **config):
        self.growth = growth
        self.php = server(**{"options": options or {}, "quiet": True, "wait": True, **config})
        self.php.wait_event("waiting")
        self.php.go()
        self.url = self.php.url()
        self.address = host_port(self.url)
        self.neighbours = [Peer(self.address) for _ in range(NEIGHBOURS)]
        self.control = Control(self.url)
        self.rounds = 0
        self.slowest = 0.0
        self.trouble = None
        self.stopping = threading.Event()
        self._talk_once()
        self.before = self.php.rss()
        self.cpu_before = self._cpu()
        self.began = time.monotonic()
        self.thread = threading.Thread(target=self._talk, daemon=True)
        self.thread.start()

    def _cpu(self):
        with open(f"/proc/{self.php.pid}/stat") as stat:
            fields = stat.read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def _talk_once(self):
        begin = time.monotonic()
        text = f"round {self.rounds}".encode()
        for neighbour in self.neighbours:
            neighbour.send(frame(1, text))
        for neighbour in self.neighbours:
            equal(neighbour.read(1), text, "echo")
        self.rounds += 1
        self.slowest = max(self.slowest, time.monotonic() - begin)

    def _talk(self):
        try:
            while not self.stopping.is_set():
                self._talk_once()
                self.stopping.wait(0.05)
        except Exception as error:  # told by finish()
            self.trouble = error

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
        """Until nobody but the neighbours and the control connection is there."""
        deadline = time.monotonic() + LIMIT
        while True:
            seen = self.stats()["connections"]
            if seen["open"] == NEIGHBOURS + 1 and seen["handshaking"] == 0:
                return seen
            check(time.monotonic() < deadline, f"connections stay: {seen}")
            time.sleep(0.05)

    def finish(self, what, errors=0):
        """Ends the test; returns its line. `errors`: how many PHP is to be told of."""
        self.stopping.set()
        self.thread.join(LIMIT)
        check(not self.thread.is_alive(), "a neighbour waits for its answer")
        check(self.trouble is None, f"a neighbour was harmed: {self.trouble!r}")
        self.slowest, slowest = 0.0, self.slowest
        self._talk_once()
        with open(f"/proc/{self.php.pid}/status") as status:
            peak = int(re.search(r"^VmHWM:\s+(\d+)", status.read(), re.M).group(1)) * 1024
        said = (
            f"{what}; peak RSS {peak / MIB:.1f} MiB, {max(peak - self.before, 0) / MIB:.1f} more than before "
            f"(allowed {self.growth / MIB:.0f}); CPU {self._cpu() - self.cpu_before:.2f} s of "
            f"{time.monotonic() - self.began:.2f} s; {NEIGHBOURS} neighbours answered {self.rounds} times, "
            f"{slowest:.2f} s at worst"
        )
        check(peak - self.before <= self.growth, said)
        equal(len(self.php.events("error")), errors, "errors in PHP")
        return said
