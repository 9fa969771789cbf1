"""Abuse of an open connection."""

import socket
import threading
import time

import harness
from harness import LIMIT, equal
from victim import MIB, Peer, Victim, frame


def close_codes(victim, attacks, times=1):
    """Each attack on a connection of its own, so many times; `attacks`: name, bytes, the code that ends it.
    How many connections that were."""
    for name, data, code in attacks:
        for _ in range(times):
            peer = Peer(victim.address)
            try:
                peer.send(data)
            except OSError:
                pass  # It is closed before the end.
            equal(peer.close_code(), code, name)
            peer.drop()
    victim.wait_gone()
    return len(attacks) * times


def test_ping_flood(_binary):
    """5 peers with 100,000 pings each, who read no answer until the end."""
    victim = Victim(cpu=60)
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
    rounds = 200 if harness.FULL else 10
    victim = Victim(cpu=20 * rounds / 10)
    peers = [Peer(victim.address) for _ in range(10)]
    flood = (frame(2, b"x") + frame(2)) * 250
    for _ in range(rounds // 10):
        for _ in range(10):
            for peer in peers:
                peer.send(flood)
        for peer in peers:
            for index in range(5000):
                equal(peer.read(2), b"x" if index % 2 == 0 else b"", "echo")
    for peer in peers:
        peer.drop()
    victim.wait_gone()
    return victim.finish(f"{5000 * rounds} messages of 0 and 1 byte, all echoed")


def test_tiny_frames_while_php_is_blocked(_binary):
    """10 peers with 40,000 messages of one byte each that nobody takes."""
    victim = Victim({"limits": {"inbound": 64 * 1024}}, growth=20 * MIB, cpu=60)
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
    """Messages of 65,536 fragments, and some with more than are allowed (131,072)."""
    victim = Victim(cpu=60)
    parts = 65536
    middle = frame(0, b"x", fin=False)
    data = frame(2, b"x", fin=False) + middle * (parts - 2) + frame(0, b"x")
    peers = [Peer(victim.address) for _ in range(5)]
    for peer in peers:
        peer.send(data)
    for peer in peers:
        equal(peer.read(2), b"x" * parts, "echo")
        peer.drop()
    bad = close_codes(victim, [("131,073 fragments", frame(2, b"x", fin=False) + middle * (2 * parts), 1008)], 20)
    empty = close_codes(victim, [("131,073 empty fragments", frame(1, fin=False) + frame(0, fin=False) * (2 * parts), 1008)], 20)
    what = f"5 messages of {parts} fragments echoed, {bad + empty} of {2 * parts + 1} closed with 1008"
    return victim.finish(what, errors=bad + empty)


def test_unfinished_messages(_binary):
    """100 peers that begin a message of 1 MiB, and one fragment of it that never ends, in small pieces."""
    count = 300 if harness.FULL else 100
    # Each holds what it has sent, and no more than the next power of two.
    victim = Victim({"limits": {"memory": 64 * MIB, "handshakeTimeout": 1}}, growth=96 * MIB, cpu=60)
    peers = [Peer(victim.address) for _ in range(count)]
    part = bytes([0x82, 0xFF]) + MIB.to_bytes(8, "big") + b"\0\0\0\0"
    for peer in peers:
        peer.link.setblocking(False)
    sent = 0
    for size in [len(part)] + [16384] * 60:
        for peer in peers:
            try:
                sent += peer.link.send(part if size == len(part) else b"p" * size)
            except OSError:
                pass  # Its reads are paused, or it has been closed to make room.
    # Who holds more than an equal share is cut, or no longer read: nobody gets in the way of the others.
    victim.stats()
    for peer in peers:
        peer.drop()
    victim.wait_gone()
    return victim.finish(f"{count} unfinished messages of 1 MiB, {sent / MIB:.0f} MiB taken by the kernel, limits.memory 64 MiB", errors=None)


def test_byte_by_byte(_binary):
    """Frames that come a byte a packet."""
    count, size = (50, 65536) if harness.FULL else (20, 4096)
    victim = Victim(cpu=300 if harness.FULL else 30)
    peers = [Peer(victim.address) for _ in range(count)]
    text = ("\u20ac" * (size // 3)).encode()
    half = len(text) // 2
    data = frame(1, text[:half], fin=False) + frame(9, b"between") + frame(0, text[half:])
    for peer in peers:
        peer.link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for at in range(len(data)):
        for peer in peers:
            peer.send(data[at : at + 1])
    for peer in peers:
        equal(peer.read(0xA), b"between", "the answer to the ping")
        equal(peer.read(1), text, "echo")
        peer.drop()
    victim.wait_gone()
    return victim.finish(f"{count} messages of {len(text)} bytes, {len(data) * count} packets of a byte, all echoed")


# What is wrong from its last byte on: nothing behind it is needed to see that.
INVALID = {
    "a byte that is never used": b"\xff",
    "another": b"\xf5",
    "a continuation of nothing": b"\x80",
    "an overlong form of 2 bytes": b"\xc0",
    "an overlong form of 3 bytes": b"\xe0\x9f",
    "an overlong form of 4 bytes": b"\xf0\x8f",
    "a surrogate": b"\xed\xa0",
    "beyond U+10FFFF": b"\xf4\x90",
    "cut after 1 of 2 bytes": b"\xc3a",
    "cut after 2 of 3 bytes": b"\xe2\x82a",
    "cut after 3 of 4 bytes": b"\xf0\x9f\x92a",
}
VALID = "a\u00e9\u20ac\U0001f4a9z\u00df\u4e2d\U0001f600 end".encode()


def positions():
    """Where a character of VALID begins, and its end."""
    return [at for at in range(len(VALID) + 1) if at == len(VALID) or VALID[at] & 0xC0 != 0x80]


def test_invalid_utf8(_binary):
    """Each kind of invalid UTF-8 at each position: of text, over the border of fragments, in close reasons."""
    victim = Victim(cpu=60)
    attacks = []
    for name, bad in INVALID.items():
        for at in positions():
            # The frame says that much more is to come: it must be refused as it stands.
            start = VALID[:at] + bad
            whole = frame(1, start + b"x" * 1000)
            attacks.append((f"{name} at {at}, the frame not finished", whole[: len(whole) - 1000], 1007))
            for cut in range(len(bad) + 1):
                border = frame(1, start[: at + cut], fin=False) + frame(9, b"p") + frame(0, start[at + cut :], fin=False)
                attacks.append((f"{name} at {at}, border before its byte {cut}", border, 1007))
            attacks.append((f"{name} at {at} of a close reason", frame(8, b"\x03\xe8" + start + b"x"), 1007))
    for at in range(1, len(VALID)):
        if at not in positions():
            attacks.append((f"a message that ends within a character at {at}", frame(1, VALID[:at]), 1007))
            attacks.append((f"a fragmented one at {at}", frame(1, VALID[: at - 1], fin=False) + frame(0, VALID[at - 1 : at]), 1007))
            attacks.append((f"a close reason that ends so at {at}", frame(8, b"\x03\xe8" + VALID[:at]), 1007))
    if not harness.FULL:
        attacks = attacks[::3]
    count = 0
    for name, data, code in attacks:
        peer = Peer(victim.address)
        peer.send(data)
        got = peer.read_frame()
        if got[0] == 0xA:
            got = peer.read_frame()
        equal((got[0], int.from_bytes(got[1][:2], "big")), (8, code), name)
        peer.drop()
        count += 1
    # What is valid passes, wherever it is cut.
    peer = Peer(victim.address)
    for at in range(len(VALID) + 1):
        peer.send(frame(1, VALID[:at], fin=False) + frame(0, VALID[at:]))
        equal(peer.read(1), VALID, f"valid text cut at {at}")
        # Binary is whatever it likes to be.
        peer.send(frame(2, VALID[:at] + b"\xff"))
        equal(peer.read(2), VALID[:at] + b"\xff", "binary")
    peer.drop()
    victim.wait_gone()
    what = f"{count} connections with invalid UTF-8, each closed with 1007 at once; valid text echoed however it was cut"
    return victim.finish(what, errors=count)


def test_reserved_and_malformed(_binary):
    """Reserved bits and opcodes, unmasked frames, lengths and control frames as they must not be, close payloads."""
    victim = Victim(cpu=60)
    attacks = []
    opcodes = (0, 1, 2, 8, 9, 0xA)
    for rsv in range(1, 8):
        for opcode in opcodes:
            for fin in (True, False):
                attacks.append((f"reserved bits {rsv:03b} of opcode {opcode}", frame(opcode, b"", fin, rsv), 1002))
    for opcode in (3, 4, 5, 6, 7, 0xB, 0xC, 0xD, 0xE, 0xF):
        for size in (0, 1, 126, 65536):
            # Its head is enough.
            attacks.append((f"opcode {opcode} of {size} bytes", frame(opcode, b"x" * size)[:14], 1002))
    for opcode in opcodes:
        attacks.append((f"opcode {opcode} without a mask", frame(opcode, b"", masked=False), 1002))
    for opcode in (8, 9, 0xA):
        attacks.append((f"control opcode {opcode} in parts", frame(opcode, b"", fin=False), 1002))
        attacks.append((f"control opcode {opcode} of 126 bytes", frame(opcode, b"x" * 126), 1002))
        attacks.append((f"control opcode {opcode} of 64 KiB", frame(opcode, b"x" * 65536)[:14], 1002))
        attacks.append((f"control opcode {opcode} of 5 bytes in 16 bits", bytes([0x80 | opcode, 0xFE, 0, 5, 0, 0, 0, 0]), 1002))
    attacks += [
        ("a length of 125 in 16 bits", bytes([0x82, 0xFE, 0, 125, 0, 0, 0, 0]), 1002),
        ("a length of 65,535 in 64 bits", bytes([0x82, 0xFF]) + (65535).to_bytes(8, "big") + bytes(4), 1002),
        ("a length of 2^63", bytes([0x82, 0xFF]) + (1 << 63).to_bytes(8, "big") + bytes(4), 1002),
        ("a continuation of nothing", frame(0, b"x"), 1002),
        ("the end of nothing", frame(0, b"", fin=False), 1002),
        ("a message within a message", frame(1, b"x", fin=False) + frame(1, b"y"), 1002),
        ("binary within text", frame(1, b"x", fin=False) + frame(2, b"y"), 1002),
        ("a continuation behind the end", frame(1, b"", fin=False) + frame(0) + frame(0), 1002),
        ("a close frame of a byte", frame(8, b"\x03"), 1002),
        ("a close frame of 126 bytes", frame(8, b"\x03\xe8" + b"r" * 124), 1002),
    ]
    for status in (0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 1999, 2000, 2999, 5000, 65535):
        attacks.append((f"close code {status}", frame(8, status.to_bytes(2, "big")), 1002))
    # An echo of what came before the attack is nothing that we ask for.
    attacks = [(name, data, code) for name, data, code in attacks if "behind the end" not in name]
    peer = Peer(victim.address)
    peer.send(frame(1, b"", fin=False) + frame(0) + frame(0))
    equal((peer.read(1), peer.close_code()), (b"", 1002), "a continuation behind the end")
    peer.drop()
    count = close_codes(victim, attacks, 10 if harness.FULL else 1) + 1
    return victim.finish(f"{count} connections with {len(attacks) + 1} kinds of malformed frames, each closed with 1002", errors=count)


def test_frames_behind_the_close(_binary):
    """What comes behind a close frame is not read, and costs nothing."""
    victim = Victim()
    for _ in range(100):
        peer = Peer(victim.address)
        try:
            peer.send(frame(8, b"\x03\xe8") + frame(1, b"too late") * 1000 + b"\xff" * 100_000)
        except OSError:
            pass
        equal(peer.close_code(), 1000, "the answer")
        peer.drop()
    victim.wait_gone()
    return victim.finish("100 connections with 1,000 messages behind their close frame")
