"""Hostile servers: what they cost a WsClient, and what it says of them."""

import base64
import hashlib
import json
import re
import socket
import threading
import time

import harness
from harness import LIMIT, check, client, equal
from victim import MIB, Process, frame

# What the client may need more than before.
GROWTH = 32 * MIB
GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


def served(opcode, payload=b"", **how):
    """A frame as a server sends it."""
    return frame(opcode, payload, masked=False, **how)


class Server:
    """Accepts, reads the request and does to each connection what `attack(link, request)` does.
    `upgrade`: answers the handshake first, with these headers more."""

    def __init__(self, attack, upgrade=True, headers=""):
        self.attack, self.upgrade, self.headers = attack, upgrade, headers
        self.socket = socket.socket()
        self.socket.bind(("127.0.0.1", 0))
        self.socket.listen(64)
        self.links = []
        self.trouble = None
        self.url = f"ws://127.0.0.1:{self.socket.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                link, _ = self.socket.accept()
            except OSError:
                return
            link.settimeout(LIMIT)
            self.links.append(link)
            threading.Thread(target=self._serve, args=(link,), daemon=True).start()

    def _serve(self, link):
        try:
            request = b""
            while b"\r\n\r\n" not in request:
                more = link.recv(4096)
                if not more:
                    return
                request += more
            if self.upgrade:
                link.sendall(switching(request, self.headers))
            self.attack(link, request)
        except OSError:
            pass  # The client has closed: that is what is wanted.
        except AssertionError as error:
            self.trouble = error

    def close(self):
        self.socket.close()
        for link in self.links:
            link.close()


def accept_key(request):
    key = re.search(rb"(?i)sec-websocket-key: *(\S+)", request).group(1)
    return base64.b64encode(hashlib.sha1(key + GUID).digest()).decode()


def switching(request, headers=""):
    return (
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Accept: {accept_key(request)}\r\n{headers}\r\n"
    ).encode()


def read_frame(link):
    """A frame of the client's, unmasked; None at the end."""

    def take(count):
        data = b""
        while len(data) < count:
            more = link.recv(count - len(data))
            if not more:
                raise EOFError
            data += more
        return data

    try:
        first, second = take(2)
        check(second & 0x80, "a client's frame without a mask")
        length = second & 0x7F
        if length == 126:
            length = int.from_bytes(take(2), "big")
        elif length == 127:
            length = int.from_bytes(take(8), "big")
        mask = take(4)
        data = take(length)
    except (EOFError, ConnectionResetError):
        return None
    whole = int.from_bytes(data, "big") ^ int.from_bytes((mask * (length // 4 + 1))[:length], "big") if length else 0
    return first & 0x0F, whole.to_bytes(length, "big")


def flood(link, data, most):
    """Sends `data` until `most` bytes are out or the client has gone."""
    sent = 0
    try:
        while sent < most:
            link.sendall(data)
            sent += len(data)
    except OSError:
        pass
    return sent


def meet(server, options=None, ends=True, **config):
    """One WsClient meets the server and is given up after its first attempt; its process and what it cost."""
    given = {"reconnect": {"maxAttempts": 1, "first": 0.01}, "protocols": [], "limits": {}, **(options or {})}
    php = client(url=server.url + "/", options=given, wait=True, **config)
    php.wait_event("started")
    usage = Process(php.pid)
    if ends:
        php.wait_event("state", to="Closed")
    return php, usage


def text_of(php):
    return " | ".join(event["message"] for event in php.events("error"))


def test_answers(_binary):
    """Answers to the handshake that are none."""
    mib = b"z" * MIB

    def send(data, more=b"", most=0):
        def attack(link, request):
            link.sendall(data(request) if callable(data) else data)
            if more:
                flood(link, more, most)
        return attack

    def drip_head(link, _request):
        link.sendall(b"HTTP/1.1 101 Switching Protocols\r\nX: ")
        while True:
            link.sendall(b"x")
            time.sleep(0.05)

    ok = b"HTTP/1.1 101 Switching Protocols\r\n"
    endless = 64 * MIB
    cases = {
        "headers without an end": (send(ok, b"X: " + b"y" * 1000 + b"\r\n", endless), "limits.maxHeaderBytes"),
        "one header without an end": (send(ok + b"X: ", mib, endless), "limits.maxHeaderBytes"),
        "129 headers": (send(ok + b"X: 1\r\n" * 129 + b"\r\n"), "too many headers"),
        "interim answers without an end": (send(b"", b"HTTP/1.1 100 Continue\r\n\r\n", endless), "limits.maxHeaderBytes"),
        "a body without an end": (send(b"HTTP/1.1 403 Forbidden\r\n\r\n", mib, endless), "403 Forbidden"),
        "a chunked body without an end": (send(b"HTTP/1.1 403 Forbidden\r\nTransfer-Encoding: chunked\r\n\r\n", b"ffffffff\r\n" + mib, endless), "403 Forbidden"),
        "a body of 2^63 bytes": (send(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 9223372036854775807\r\n\r\n", mib, endless), "403 Forbidden"),
        "no HTTP": (send(b"SSH-2.0-OpenSSH_9.9\r\n"), "not HTTP"),
        "bytes without an end": (send(b"", b"\0" * MIB, endless), "not HTTP"),
        "nothing but the end": (lambda link, _: link.shutdown(socket.SHUT_RDWR), "without an answer"),
        "an older version": (send(b"HTTP/1.0 101 Switching Protocols\r\n\r\n"), "version"),
        "a wrong key": (send(ok + b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: AAAA\r\n\r\n"), "Sec-WebSocket-Accept"),
        "no key": (send(ok + b"Upgrade: websocket\r\nConnection: Upgrade\r\n\r\n"), "Sec-WebSocket-Accept"),
        "two keys": (send(lambda r: switching(r, f"Sec-WebSocket-Accept: {accept_key(r)}\r\n")), "Sec-WebSocket-Accept"),
        "no Upgrade": (send(lambda r: switching(r).replace(b"Upgrade: websocket", b"X: y")), "Upgrade"),
        "no Connection": (send(lambda r: switching(r).replace(b"Connection: Upgrade", b"X: y")), "Connection"),
        "an extension that nobody offered": (send(lambda r: switching(r, "Sec-WebSocket-Extensions: x-evil\r\n")), "Sec-WebSocket-Extensions"),
        "a protocol that nobody offered": (send(lambda r: switching(r, "Sec-WebSocket-Protocol: evil\r\n")), "Sec-WebSocket-Protocol"),
        "two protocols": (send(lambda r: switching(r, "Sec-WebSocket-Protocol: a\r\nSec-WebSocket-Protocol: b\r\n")), "Sec-WebSocket-Protocol"),
        "a redirect": (send(b"HTTP/1.1 302 Found\r\nLocation: ws://127.0.0.1:1/elsewhere\r\nContent-Length: 0\r\n\r\n"), "not followed"),
        "a redirect of 15 KiB": (send(b"HTTP/1.1 302 Found\r\nLocation: ws://" + b"l" * 15_000 + b"\r\nContent-Length: 0\r\n\r\n"), "not followed"),
        "a status of 999": (send(b"HTTP/1.1 999 Strange\r\nContent-Length: 0\r\n\r\n"), "999"),
        "200 in place of 101": (send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"), "200 OK"),
        "silence": (lambda link, _: link.recv(1), "connect.timeout"),
        "a head that drips": (drip_head, "connect.timeout"),
        "a NUL in a header": (send(ok + b"X: a\0b\r\n\r\n"), "header"),
    }
    costs = []
    for name, (attack, wanted) in cases.items():
        server = Server(attack, upgrade=False)
        began = time.monotonic()
        php, usage = meet(server, {"connect": {"timeout": 2}})
        php.wait_event("error")
        said = text_of(php)
        check(wanted in said, f"{name}: {said!r}, wanted '{wanted}'")
        check(len(said) <= 4500, f"{name}: a message of {len(said)} bytes")
        check(not re.search(r"[\x00-\x1f\x7f-\x9f]", said), f"{name}: control characters in {said!r}")
        equal(php.events("state", to="Connected"), [], name)
        grown = usage._status("VmHWM") - usage.before
        check(grown <= GROWTH, f"{name}: {grown / MIB:.1f} MiB more")
        costs.append((grown, name, time.monotonic() - began))
        php.kill()
        server.close()
    grown, worst, _ = max(costs)
    return f"{len(cases)} kinds of answers, each refused with what is wrong; at most {grown / MIB:.1f} MiB more ({worst}; allowed {GROWTH / MIB:.0f})"


def test_frames(_binary):
    """Frames that a server must not send."""
    huge = bytes([0x82, 127]) + (2**62).to_bytes(8, "big")
    cases = {
        "a masked frame": (frame(1, b"masked"), 1002),
        "a reserved bit": (served(1, b"x", rsv=4), 1002),
        "all reserved bits": (served(2, b"x", rsv=7), 1002),
        "a reserved opcode": (served(3, b"x"), 1002),
        "a reserved control opcode": (served(0xB), 1002),
        "a ping of 126 bytes": (served(9, b"x" * 126), 1002),
        "a ping in parts": (served(9, b"x", fin=False), 1002),
        "a continuation of nothing": (served(0, b"x"), 1002),
        "a message within a message": (served(1, b"x", fin=False) + served(1, b"y"), 1002),
        "a length that is longer than need be": (bytes([0x82, 126, 0, 5]) + b"hello", 1002),
        "a length of 2^63": (bytes([0x82, 127]) + (1 << 63).to_bytes(8, "big"), 1002),
        "invalid UTF-8": (served(1, b"ok\xff"), 1007),
        "UTF-8 that is cut": (served(1, b"\xe2\x82"), 1007),
        "a close frame of a byte": (served(8, b"\x03"), 1002),
        "close code 1005": (served(8, (1005).to_bytes(2, "big")), 1002),
        "close code 5000": (served(8, (5000).to_bytes(2, "big")), 1002),
        "a close reason that is no UTF-8": (served(8, (1000).to_bytes(2, "big") + b"\xff"), 1007),
        "a frame of 2^62 bytes": (huge, 1009),
        "a message of 2 MiB": (served(2, b"m" * (2 * MIB)), 1009),
        "1,000 fragments of 2 KiB": (served(2, b"f" * 2048, fin=False) + served(0, b"f" * 2048, fin=False) * 1000, 1009),
        "131,073 fragments": (served(2, b"f", fin=False) + served(0, b"", fin=False) * 131_073, 1008),
    }
    grown = []
    for name, (data, code) in cases.items():
        codes = []

        def attack(link, _request):
            flood(link, data, len(data))
            while (got := read_frame(link)) is not None:
                if got[0] == 8:
                    codes.append(int.from_bytes(got[1][:2], "big"))

        server = Server(attack)
        php, usage = meet(server)
        equal(php.wait_event("close")[0]["code"], code, f"what PHP is told of {name}")
        grown.append((usage._status("VmHWM") - usage.before, name))
        check(grown[-1][0] <= GROWTH, f"{name}: {grown[-1][0] / MIB:.1f} MiB more")
        deadline = time.monotonic() + LIMIT
        while not codes and time.monotonic() < deadline:
            time.sleep(0.01)
        equal(codes[:1], [code], f"what the server is told of {name}")
        php.wait_event("error")
        equal(server.trouble, None, name)
        php.kill()
        server.close()
    most, worst = max(grown)
    return f"{len(cases)} kinds of frames, each closed with its code and told; at most {most / MIB:.1f} MiB more ({worst}; allowed {GROWTH / MIB:.0f})"


def flooded(data, most, options=None, growth=GROWTH, cpu=30.0, **config):
    """A client under a flood of `data`: how much of it was taken until it read no more, and what it cost."""
    begin, done = threading.Event(), threading.Event()
    sent = [0]

    def attack(link, _request):
        begin.wait(LIMIT)
        try:
            while sent[0] < most:
                sent[0] += link.send(data)
        finally:
            done.set()
        link.recv(1)

    server = Server(attack)
    php, usage = meet(server, options, ends=False, **config)
    if "sleep" in config:
        php.wait_event("blocked")
    begin.set()
    last, same = 0, 0
    while same < 4 and not done.wait(0.5):
        same = same + 1 if sent[0] == last and last else 0
        last = sent[0]
    said = usage.check("", growth, cpu)
    check(php.child.poll() is None, f"the client ended: {php.describe()}")
    taken = sent[0]
    php.kill()
    server.close()
    return taken, said


def test_ping_flood(_binary):
    """Pings of 125 bytes from a server that never reads an answer."""
    count = 5_000_000 if harness.FULL else 500_000
    data = served(9, b"p" * 125) * 1000
    taken, said = flooded(data, count * 127, cpu=300 if harness.FULL else 40)
    return f"{taken // 127} pings to a client whose answers nobody reads{said}"


def test_message_flood(_binary):
    """Messages without an end while PHP is blocked: reads pause at limits.inbound."""
    data = served(2, b"m" * 1000) * 1000
    taken, said = flooded(data, 512 * MIB, {"limits": {"inbound": MIB}}, sleep=600)
    # The rest is in the kernel's buffers.
    check(taken < 64 * MIB, f"{taken} bytes were taken while PHP was blocked")
    return f"512 MiB of messages to a client whose PHP is blocked: {taken / MIB:.1f} MiB taken{said}"


def test_never_reads(_binary):
    """A server that never reads: the outbox is the bound."""
    server = Server(lambda link, _request: threading.Event().wait(LIMIT))
    options = {"outbox": {"bytes": 4 * MIB, "overflow": "dropOldest"}, "heartbeat": {"interval": 60}}
    php, usage = meet(server, options, ends=False, sendEvery=0.0005, sendSize=65536)
    php.wait_event("state", to="Connected")
    deadline = time.monotonic() + LIMIT
    # 64 MiB at least were sent, or tried to.
    while usage._cpu() - usage.cpu_before < 0.5 and time.monotonic() < deadline:
        time.sleep(0.2)
    said = usage.check("a server that never reads, outbox.bytes 4 MiB", GROWTH, 30)
    php.kill()
    server.close()
    return said


def test_reconnect_storm(_binary):
    """A server that closes at once, each time: backoff, not a storm."""
    server = Server(lambda link, _request: link.shutdown(socket.SHUT_RDWR))
    php = client(url=server.url + "/", options={"reconnect": {"base": 0.5, "max": 30, "first": 0.1}, "protocols": []})
    php.wait_event("started")
    usage = Process(php.pid)
    php.wait_event("state", to="Reconnecting", count=5)
    delays = [event["delay"] for event in php.events("state", to="Reconnecting")]
    windows = [0.1] + [0.5 * 2**n for n in range(4)]
    for delay, window in zip(delays, windows):
        check(delay <= window, f"delays {delays} beyond windows {windows}")
    # An uptime of nothing does not reset the count.
    equal([event["attempt"] for event in php.events("state", to="Reconnecting")][:5], [2, 3, 4, 5, 6], "the next attempt")
    said = usage.check("5 connections, each closed at once: the attempts are counted, the delays grow", GROWTH, 10)
    php.kill()
    server.close()
    return said


def test_lifeline_server(_binary):
    """Servers that choose lifeline.v1 and break it."""
    welcome = {
        "sid": "s1", "tok": "t1", "resumed": False, "s0": 1, "q": 0, "spread": 0,
        "limits": {"maxMessage": MIB, "window": MIB},
    }
    hello = "W " + json.dumps(welcome)
    last = 2**53 - 1

    def says(*texts):
        return b"".join(served(1, text.encode()) for text in texts)

    cases = {
        "no WELCOME": says("hello"),
        "WELCOME without a session": says('W {"v":1}'),
        "WELCOME of 200 KiB": says('W {"sid":"' + "s" * 200_000 + '"}'),
        "WELCOME 10,000 deep": says('W {"x":' + "[" * 10_000 + "]" * 10_000 + "}"),
        "a heartbeat of a year's fraction": says("W " + json.dumps({**welcome, "heartbeat": {"interval": -1, "timeout": 1}})),
        "a message of the future": says(hello, f"M {last}\nx"),
        "an acknowledgement of the future": says(hello, f"A {last}"),
        "numbers beyond 2^53": says(hello, f"M {last + 1}\nx"),
        "a header of 4 KiB": says(hello, "M " + "1" * 4096),
        "a channel that breaks the rules": says(hello, "C a%0Ab e 1 m\nx"),
        "an escape that is none": says(hello, "C a%zz e 1 m\nx"),
        "a gap backwards": says(hello, 'G {"channel":null,"from":9,"to":3,"why":"x"}'),
        "no JSON": says(hello, "K {"),
        "WELCOME twice": says(hello, hello),
    }
    headers = "Sec-WebSocket-Protocol: lifeline.v1\r\n"
    grown = []
    for name, data in cases.items():
        codes = []

        def attack(link, _request):
            link.sendall(data)
            while (got := read_frame(link)) is not None:
                if got[0] == 8:
                    codes.append(int.from_bytes(got[1][:2], "big"))

        server = Server(attack, headers=headers)
        php, usage = meet(server, {"protocols": ["lifeline.v1"]}, ends=False)
        deadline = time.monotonic() + LIMIT
        while not codes and time.monotonic() < deadline:
            time.sleep(0.01)
        check(codes and codes[0] in (4004, 4501, 4504, 1002), f"{name}: the server is told {codes}")
        grown.append((usage._status("VmHWM") - usage.before, name))
        check(grown[-1][0] <= GROWTH, f"{name}: {grown[-1][0] / MIB:.1f} MiB more")
        php.kill()
        server.close()
    # Floods of what is in order: each is taken, and costs nothing that stays.
    floods = {
        "subscriptions that nobody asked for": b"".join(says('K {"ch":"c%d","st":"ok","e":"e","o":0,"mid":"-"}' % n) for n in range(100_000)),
        "gaps": says(*['G {"channel":null,"from":%d,"to":%d,"why":"x"}' % (n, n) for n in range(1, 100_001)]),
        "refusals of what was not sent": says(*['N {"q":%d,"permanent":true}' % n for n in range(1, 1001)]),
        "states of no document": says(*["V board%d e 1 00000000\n{}" % n for n in range(100_000)]),
        "unknown types": says("Q 1") * 200_000,
    }
    for name, data in floods.items():
        done = threading.Event()

        def attack(link, _request):
            link.sendall(says(hello))
            flood(link, data, len(data))
            done.set()
            while read_frame(link) is not None:
                pass

        server = Server(attack, headers=headers)
        php, usage = meet(server, {"protocols": ["lifeline.v1"]}, ends=False)
        check(done.wait(LIMIT), f"{name}: not taken")
        most = usage._status("VmHWM") - usage.before
        grown.append((most, name))
        check(most <= GROWTH + 32 * MIB, f"{name}: {most / MIB:.1f} MiB more")
        php.kill()
        server.close()
    most, worst = max(grown)
    return f"{len(cases)} kinds of broken lifeline.v1, each closed with its code, {len(floods)} floods; at most {most / MIB:.1f} MiB more ({worst})"
