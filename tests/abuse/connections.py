"""Abuse before there is a connection, and of connecting."""

import select
import time

from harness import LIMIT, SLACK, check, equal
from victim import MIB, Peer, Victim, allow_descriptors, dial, read_status, request


def test_slow_handshakes(_binary):
    """300 requests that come a byte now and then."""
    timeout = 2
    victim = Victim({"limits": {"handshakeTimeout": timeout}})
    begin = time.monotonic()
    links = {}
    for _ in range(300):
        link = dial(victim.address)
        links[link.fileno()] = link
    watch = select.poll()
    for number, link in links.items():
        link.setblocking(False)
        watch.register(number, select.POLLIN)
    text = request(victim.address)[:-2]
    sent = 0
    while links:
        check(time.monotonic() - begin < SLACK * timeout + 3, f"{len(links)} of 300 are not cut")
        for link in links.values():
            try:
                link.send(text[sent % len(text) : sent % len(text) + 1])
            except OSError:
                pass
        sent += 1
        until = time.monotonic() + 0.2
        while links and (left := until - time.monotonic()) > 0:
            for number, _ in watch.poll(left * 1000):
                check(time.monotonic() - begin > timeout * 0.9, "cut too early")
                watch.unregister(number)
                links.pop(number).close()
    took = time.monotonic() - begin
    seen = victim.wait_gone()
    equal(seen["failedHandshakes"], 300, "failed handshakes")
    return victim.finish(f"300 slow handshakes, each cut, the last after {took:.1f} s (limit {timeout} s)")


def test_header_flood(_binary):
    """200 requests with 64 KiB of headers."""
    victim = Victim()
    flood = request(victim.address, headers="".join(f"X-{n}: {'y' * 1000}\r\n" for n in range(64)))
    for _ in range(200):
        link = dial(victim.address)
        try:
            link.sendall(flood)
        except OSError:
            pass  # The answer has come before the end.
        equal(read_status(link)[0], 431, "status")
        link.close()
    victim.wait_gone()
    return victim.finish("200 requests of 64 KiB, each answered 431")


def test_origin(_binary):
    """Pages of other sites."""
    victim = Victim()
    for origin, status in (("https://evil.example", 403), ("null", 403), (f"http://{victim.address}", 101)):
        for _ in range(50):
            link = dial(victim.address)
            link.sendall(request(victim.address, headers=f"Origin: {origin}\r\n"))
            equal(read_status(link)[0], status, f"status for {origin}")
            link.close()
    victim.wait_gone()
    return victim.finish("100 cross-site requests, each answered 403")


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


def test_who_never_reads(_binary):
    """200 peers that never read while 1 KiB is published 1,000 times."""
    # What the kernel's buffers take is not the server's: then the beats find them.
    beats = {"interval": 3, "timeout": 3}
    victim = Victim({"send": {"limit": 64 * 1024}, "heartbeat": beats}, growth=64 * MIB, quiet=False)
    peers = [Peer(victim.address, "/?news", receive_buffer=4096) for _ in range(200)]
    victim.control.order("publish 0.001 1024 1000")
    victim.php.wait_event("published")
    closed = victim.php.wait_event("close", count=200)
    codes = [event["code"] for event in closed]
    slow, dead = codes.count(4002), codes.count(4001)
    equal(slow + dead, 200, f"closed as slow or dead: {codes}")
    victim.wait_gone()
    for peer in peers:
        peer.drop()
    what = f"1000 messages of 1 KiB to 200 peers that never read: {slow} closed as slow, {dead} as dead"
    return victim.finish(what)


def test_who_reads_nothing_of_much(_binary):
    """20 peers that never read while each is sent 16 MiB: more than the kernel's buffers take."""
    # Their close frame is waited for no longer than a handshake.
    options = {"send": {"limit": 256 * 1024}, "limits": {"handshakeTimeout": 1}}
    victim = Victim(options, growth=64 * MIB, quiet=False)
    peers = [Peer(victim.address, "/?news", receive_buffer=4096) for _ in range(20)]
    victim.control.order("each 0.001 16384 1000")
    victim.php.wait_event("published")
    closed = victim.php.wait_event("close", count=20)
    equal([event["code"] for event in closed], [4002] * 20, "closed as slow")
    victim.wait_gone()
    for peer in peers:
        peer.drop()
    return victim.finish("up to 16 MiB to each of 20 peers that never read, each closed as slow")
