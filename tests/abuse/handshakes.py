"""Abuse before there is a connection."""

import select
import socket
import time

import harness
from harness import LIMIT, SLACK, check, equal
from victim import MIB, NEIGHBOURS, Peer, Victim, allow_descriptors, dial, frame, read_status, request


def drip(victim, count, text, timeout):
    """Opens `count` connections and sends `text` to each, a byte now and then, until the server has cut all; seconds
    from when they were open to the last."""
    first = time.monotonic()
    links = [dial(victim.address) for _ in range(count)]
    links = {link.fileno(): link for link in links}
    begin = time.monotonic()
    watch = select.poll()
    for number, link in links.items():
        link.setblocking(False)
        watch.register(number, select.POLLIN)
    sent = 0
    while links:
        check(time.monotonic() - begin < SLACK * timeout + LIMIT, f"{len(links)} are not cut")
        if text:
            for link in links.values():
                try:
                    link.send(text[sent % len(text) : sent % len(text) + 1])
                except OSError:
                    pass
        sent += 1
        until = time.monotonic() + 0.2
        while links and (left := until - time.monotonic()) > 0:
            for number, _ in watch.poll(left * 1000):
                check(time.monotonic() - first > timeout * 0.9, "cut too early")
                watch.unregister(number)
                links.pop(number).close()
    return time.monotonic() - begin


def test_slow_handshakes(_binary):
    """Requests that come a byte now and then."""
    count, timeout = (5000 if harness.FULL else 1000), 2
    allow_descriptors(count + 500)
    victim = Victim({"limits": {"handshakeTimeout": timeout}}, growth=64 * MIB)
    took = drip(victim, count, request(victim.address)[:-2], timeout)
    seen = victim.wait_gone()
    equal(seen["failedHandshakes"], count, "failed handshakes")
    return victim.finish(f"{count} slow handshakes, each cut, the last after {took:.1f} s (limit {timeout} s)")


def test_silent_connections(_binary):
    """Connections that say nothing at all."""
    count, timeout = (5000 if harness.FULL else 1000), 2
    allow_descriptors(count + 500)
    victim = Victim({"limits": {"handshakeTimeout": timeout}}, growth=64 * MIB)
    took = drip(victim, count, b"", timeout)
    seen = victim.wait_gone()
    equal(seen["failedHandshakes"], count, "failed handshakes")
    return victim.finish(f"{count} silent connections, each cut, the last after {took:.1f} s (limit {timeout} s)")


def refused(victim, data):
    """The status that answers `data`, of which the server may not read the end."""
    link = dial(victim.address)
    try:
        link.sendall(data)
    except OSError:
        pass  # The answer has come before the end.
    status = read_status(link)[0]
    link.close()
    return status


def test_header_flood(_binary):
    """Heads of more than limits.maxHeaderBytes (16 KiB), in each way that a head grows."""
    victim = Victim()
    count = 1000 if harness.FULL else 100
    host = f"Host: {victim.address}\r\n"
    floods = {
        "64 headers of 1 KiB": (request(victim.address, headers="".join(f"X-{n}: {'y' * 1000}\r\n" for n in range(64))), 431),
        "10,000 headers of 5 bytes": (request(victim.address, headers="X: 1\r\n" * 10_000), 431),
        "129 small headers": (request(victim.address, headers="X: 1\r\n" * 129), 431),
        "a header of 1 MiB": (request(victim.address, headers=f"Cookie: {'c' * MIB}\r\n"), 431),
        "a header name of 64 KiB": (request(victim.address, headers=f"{'N' * 65536}: 1\r\n"), 431),
        "a URL of 64 KiB": (request(victim.address, path="/" + "u" * 65536), 431),
        "a head without an end": (f"GET / HTTP/1.1\r\n{host}X: ".encode() + b"z" * MIB, 431),
        "a method of 64 KiB": (b"G" * 65536, 431),
        "empty lines without an end": (b"\r\n" * 65536, 431),
    }
    for name, (flood, status) in floods.items():
        for _ in range(count):
            equal(refused(victim, flood), status, f"status for {name}")
    victim.wait_gone()
    return victim.finish(f"{count} requests of each of {len(floods)} kinds of header flood, each answered 431")


def test_bad_requests(_binary):
    """What is no request for a WebSocket, or none at all."""
    victim = Victim()
    good = request(victim.address).decode()
    bad = {
        "HTTP/1.0": (good.replace("HTTP/1.1", "HTTP/1.0"), 400),
        "HTTP/2.0": (good.replace("HTTP/1.1", "HTTP/2.0"), 400),
        "POST": (good.replace("GET", "POST"), 405),
        "a body": (good.replace("\r\n\r\n", "\r\nContent-Length: 5\r\n\r\nhello"), 400),
        "a chunked body": (good.replace("\r\n\r\n", "\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"), 400),
        "no key": (good.replace("Sec-WebSocket-Key", "X-Key"), 400),
        "a key of 64 bytes": (good.replace("dGhlIHNhbXBsZSBub25jZQ==", "A" * 62 + "=="), 400),
        "a key with a control byte": (good.replace("dGhl", "dG\x01l"), 400),
        "version 12": (good.replace("Version: 13", "Version: 12"), 426),
        "no version": (good.replace("Sec-WebSocket-Version", "X-Version"), 400),
        "no Connection": (good.replace("Connection: Upgrade", "Connection: close"), 400),
        "no Upgrade": (good.replace("Upgrade: websocket", "Upgrade: h2c"), 426),
        "two Host headers": (good.replace("Host:", "Host: evil.example\r\nHost:"), 400),
        "no Host": (good.replace("Host:", "X-Host:"), 400),
        "a folded header": (good.replace("\r\n\r\n", "\r\nX: a\r\n b\r\n\r\n"), 400),
        "a blank before the colon": (good.replace("Host:", "Host :"), 400),
        "a NUL": (good.replace("GET /", "GET /\0"), 400),
        "a bare CR": (good.replace("Host:", "X: a\rb\r\nHost:"), 400),
        "no HTTP": ("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
    }
    rounds = 20 if harness.FULL else 3
    for name, (text, status) in bad.items():
        for _ in range(rounds):
            equal(refused(victim, text.encode("latin-1")), status, f"status for {name}")
    victim.wait_gone()
    return victim.finish(f"{rounds} requests of each of {len(bad)} kinds that are none, each refused by its status")


def test_origin(_binary):
    """Pages of other sites, with the default settings: cross-site WebSocket hijacking."""
    victim = Victim()
    host, port = victim.address.rsplit(":", 1)
    own = victim.address
    foreign = [
        "https://evil.example", "null", f"http://{host}", f"https://{host}", f"http://{host}:1", f"http://{own}.evil.example",
        f"http://evil.example:{port}", f"http://evil.example/{own}", f"http://{own}@evil.example", f"http://{own}#.evil.example",
        f"http://{own}, https://evil.example", f"http://localhost:{port}", "file://", "", " ", "http://", f"http://{own}%00.evil.example",
        f"http://[::ffff:127.0.0.1]:{port}", f"http://0x7f000001:{port}", "chrome-extension://abcdef", f"http://{own}\t.evil",
    ]
    rounds = 20 if harness.FULL else 3
    for origin in foreign:
        for _ in range(rounds):
            # Cookies are what the attack lives on.
            text = request(own, headers=f"Origin: {origin}\r\nCookie: session=victim\r\n")
            equal(refused(victim, text), 403, f"status for Origin {origin!r}")
    # Another site first, the own one behind it.
    twice = request(own, headers=f"Origin: https://evil.example\r\nOrigin: http://{own}\r\n")
    check(refused(victim, twice) in (400, 403), "two Origin headers")
    for _ in range(rounds):
        for headers in (f"Origin: http://{own}\r\n", f"Origin: HTTP://{own}\r\n", ""):
            equal(refused(victim, request(own, headers=headers)), 101, f"status for {headers!r}")
    victim.wait_gone()
    return victim.finish(f"{rounds} cross-site requests from each of {len(foreign)} origins, each answered 403; the own site's and no browser's 101")


def test_handshake_flood(_binary):
    """5,000 ask to be let in while PHP, which decides, is blocked."""
    count, most = 5000, 4096
    allow_descriptors(count + 500)
    # What waits is a socket, a task and a request each.
    victim = Victim({"limits": {"authTimeout": LIMIT}}, growth=128 * MIB, ask=True)
    victim.block()
    text = request(victim.address)
    links = []
    for _ in range(count):
        link = dial(victim.address)
        link.sendall(text)
        links.append(link)
    # Those over the bound are told at once, PHP or not.
    refused = set()
    watch = select.poll()
    by_number = {link.fileno(): link for link in links}
    for number in by_number:
        watch.register(number, select.POLLIN)
    deadline = time.monotonic() + LIMIT
    while len(refused) < count - most:
        check(time.monotonic() < deadline, f"{len(refused)} of {count - most} were refused")
        for number, _ in watch.poll(1000):
            watch.unregister(number)
            equal(read_status(by_number[number])[0], 503, "status while PHP is blocked")
            refused.add(number)
    equal(len(refused), count - most, "refused")
    victim.unblock()
    for number, link in by_number.items():
        if number not in refused:
            equal(read_status(link)[0], 101, "status when PHP is back")
        link.close()
    victim.wait_gone()
    return victim.finish(f"{count} asked while PHP was blocked: {count - most} got 503, {most} waited for PHP")


def test_half_closed(_binary):
    """Sockets whose peer has ended its side (FIN) and never closes the other, at each stage."""
    count = 500 if harness.FULL else 50
    allow_descriptors(8 * count + 500)
    victim = Victim({"limits": {"handshakeTimeout": 2}, "heartbeat": {"interval": 2, "timeout": 2}}, growth=64 * MIB)
    head = request(victim.address)
    stages = {
        "before a byte": (False, b""),
        "within the request": (False, head[:40]),
        "behind the request": (False, head),
        "when it is open": (True, b""),
        "within a frame": (True, frame(1, b"x" * 1000)[:500]),
        "within a message": (True, frame(1, b"x" * 1000, fin=False)),
        "behind a message": (True, frame(1, b"answer me")),
        "behind a close frame": (True, frame(8, (1000).to_bytes(2, "big"))),
    }
    links = []
    for name, (is_open, data) in stages.items():
        for _ in range(count):
            link = Peer(victim.address).link if is_open else dial(victim.address)
            link.sendall(data)
            link.shutdown(socket.SHUT_WR)
            links.append((name, link))
    # Not one of them is closed here before the server has let go of all.
    victim.wait_gone()
    for name, link in links:
        got = b""
        try:
            while more := link.recv(65536):
                got += more
        except ConnectionResetError:
            pass
        if name == "behind a close frame":
            check(got.endswith(b"\x03\xe8"), f"{name}: {got!r}")
        link.close()
    return victim.finish(f"{count} sockets half closed at each of {len(stages)} stages, all let go of, no descriptor left")


def test_connect_close_loop(_binary):
    """3,000 come and go while PHP is blocked."""
    victim = Victim()
    victim.block()
    begin = time.monotonic()
    for _ in range(3000):
        Peer(victim.address).drop()
    took = time.monotonic() - begin
    victim.unblock()
    seen = victim.wait_gone()
    check(seen["opened"] >= 3000, f"opened: {seen}")
    return victim.finish(f"3000 connections came and went in {took:.1f} s while PHP was blocked")


def test_churn(binary):
    """Connections that come and go without a pause, by a third each of a close frame, FIN and RST."""
    connects = 100_000 if harness.FULL else 6000
    victim = Victim(cpu=600 if harness.FULL else 40)
    for ending in ("close", "fin", "reset"):
        words = ("--connects", connects // 3, "--concurrency", 64, "--ending", ending, "--sources", 50)
        report = harness.Load(binary, "churn", "--url", victim.url, *words).report(timeout=3600)
        check("error" not in report and not report.get("failed"), f"{ending}: {report}")
    seen = victim.wait_gone()
    check(seen["opened"] >= connects // 3 * 3 + NEIGHBOURS, f"opened: {seen}")
    return victim.finish(f"{connects // 3 * 3} connections came and went")
