"""Abuse of an open connection."""

import threading
import time

from harness import equal
from victim import MIB, Peer, Victim, frame


def close_codes(victim, attacks):
    """Each attack on a connection of its own, 20 times; `attacks`: name, bytes, the code that ends it."""
    for name, data, code in attacks:
        peers = [Peer(victim.address) for _ in range(20)]
        for peer in peers:
            try:
                peer.send(data)
            except OSError:
                pass  # It is closed before the end.
            equal(peer.close_code(), code, name)
            peer.drop()
    victim.wait_gone()


def test_ping_flood(_binary):
    """5 peers with 100,000 pings each, who read no answer until the end."""
    victim = Victim()
    # More than the kernel's buffers take of the answers.
    peers = [Peer(victim.address, receive_buffer=4096) for _ in range(5)]
    flood = frame(9, b"p" * 125) * 1000
    for _ in range(100):
        for peer in peers:
            peer.send(flood)
    for peer in peers:
        peer.send(frame(9, b"last"))
    for peer in peers:
        while peer.read(0xA) != b"last":
            pass
        peer.drop()
    victim.wait_gone()
    return victim.finish("500,000 pings of 125 bytes, the last of each peer answered")


def test_tiny_frames(_binary):
    """10 peers with 5,000 messages of no or one byte each."""
    victim = Victim()
    peers = [Peer(victim.address) for _ in range(10)]
    flood = (frame(2, b"x") + frame(2)) * 250
    for _ in range(10):
        for peer in peers:
            peer.send(flood)
    for peer in peers:
        for index in range(5000):
            equal(peer.read(2), b"x" if index % 2 == 0 else b"", "echo")
        peer.drop()
    victim.wait_gone()
    return victim.finish("50,000 messages of 0 and 1 byte, all echoed")


def test_tiny_frames_while_php_is_blocked(_binary):
    """10 peers with 40,000 messages of one byte each that nobody takes."""
    victim = Victim({"limits": {"inbound": 64 * 1024}}, growth=20 * MIB)
    peers = [Peer(victim.address) for _ in range(10)]
    flood = frame(2, b"x") * 400
    sent = [0] * len(peers)

    def send(number):
        for _ in range(100):
            peers[number].send(flood)
            sent[number] += 1

    threads = [threading.Thread(target=send, args=(number,), daemon=True) for number in range(len(peers))]
    victim.block()
    for thread in threads:
        thread.start()
    # Until all is sent, or the server reads no more.
    last = None
    while sum(sent) < 100 * len(peers) and last != (last := sum(sent)):
        time.sleep(0.5)
    victim.unblock()
    for peer in peers:
        for _ in range(40_000):
            equal(peer.read(2), b"x", "echo")
        peer.drop()
    victim.wait_gone()
    return victim.finish("400,000 messages of 1 byte while PHP was blocked, all echoed after it")


def test_fragments(_binary):
    """Messages of 65,536 fragments, and one with more than are allowed."""
    victim = Victim()
    parts = 65536
    middle = frame(0, b"x", fin=False)
    data = frame(2, b"x", fin=False) + middle * (parts - 2) + frame(0, b"x")
    peers = [Peer(victim.address) for _ in range(5)]
    for peer in peers:
        peer.send(data)
    for peer in peers:
        equal(peer.read(2), b"x" * parts, "echo")
        peer.drop()
    close_codes(victim, [("131,073 fragments", frame(2, b"x", fin=False) + middle * (2 * parts), 1008)][:1])
    return victim.finish(f"5 messages of {parts} fragments echoed, 20 of {2 * parts + 1} closed with 1008", errors=20)


def test_oversized(_binary):
    """Messages and frames over limits.maxMessage (1 MiB)."""
    victim = Victim()
    huge = bytes([0x82, 0xFF]) + (2**62).to_bytes(8, "big") + b"\0\0\0\0"
    over = bytes([0x82, 0xFF]) + (MIB + 1).to_bytes(8, "big") + b"\0\0\0\0"
    half = b"h" * (MIB // 2 + 1)
    close_codes(
        victim,
        [
            ("a frame of 2^62 bytes", huge, 1009),
            ("a frame of 1 MiB and a byte", over + b"x" * 4096, 1009),
            ("two halves of more than 1 MiB", frame(2, half, fin=False) + frame(0, half), 1009),
        ],
    )
    return victim.finish("60 oversized frames and messages, each closed with 1009", errors=60)


def test_garbage(_binary):
    """What RFC 6455 forbids."""
    victim = Victim()
    attacks = [
        ("invalid UTF-8", frame(1, b"ok\xff\xfe"), 1007),
        ("UTF-8 cut at the end", frame(1, b"\xe2\x82"), 1007),
        ("a surrogate", frame(1, b"\xed\xa0\x80"), 1007),
        ("a reserved bit", frame(1, b"x", rsv=4), 1002),
        ("another reserved bit", frame(2, b"x", rsv=1), 1002),
        ("an unmasked frame", frame(1, b"unmasked", masked=False), 1002),
        ("an unknown opcode", frame(3, b"x"), 1002),
        ("a ping in parts", frame(9, b"x", fin=False), 1002),
        ("a long ping", frame(9, b"x" * 126), 1002),
        ("a continuation of nothing", frame(0, b"x"), 1002),
        ("a message within a message", frame(1, b"x", fin=False) + frame(1, b"y"), 1002),
    ]
    close_codes(victim, attacks)
    count = 20 * len(attacks)
    what = f"{count} connections with {len(attacks)} kinds of garbage, each closed with 1002 or 1007"
    return victim.finish(what, errors=count)
