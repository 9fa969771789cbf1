"""Peers that never read."""

import harness
from harness import equal
from victim import MIB, Peer, Victim


def test_who_never_reads(_binary):
    """300 peers that never read while 1 KiB is published 1,000 times a second."""
    count, messages = 300, (30_000 if harness.FULL else 3000)
    # The kernel's buffers take 3 MiB and more for each: then the beats find them. In full size they are overrun.
    beats = {"interval": 60} if harness.FULL else {"interval": 3, "timeout": 3}
    cpu = 120 if harness.FULL else 40
    options = {"send": {"limit": 64 * 1024}, "heartbeat": beats}
    victim = Victim(options, growth=64 * MIB, cpu=cpu, quiet=False)
    peers = [Peer(victim.address, "/?news", receive_buffer=4096) for _ in range(count)]
    victim.control.order(f"publish 0.001 1024 {messages}")
    began = victim.php.wait_event("publishing")[0]["t"]
    took = victim.php.wait_event("published", timeout=600)[0]["t"] - began
    closed = victim.php.wait_event("close", count=count)
    codes = [event["code"] for event in closed]
    slow, dead = codes.count(4002), codes.count(4001)
    equal(slow + dead, count, f"closed as slow or dead: {codes}")
    victim.wait_gone()
    for peer in peers:
        peer.drop()
    what = f"{messages} messages of 1 KiB in {took:.1f} s to {count} peers that never read: {slow} closed as slow, {dead} as dead"
    return victim.finish(what)


def test_who_never_reads_with_the_default_settings(_binary):
    """300 peers that never read while 64 KiB is published: what one of them may cost is send.limit, and all of them limits.memory."""
    count, messages = 300, (400 if harness.FULL else 150)
    options = {"limits": {"memory": 128 * MIB}, "heartbeat": {"interval": 60}}
    victim = Victim(options, growth=180 * MIB, cpu=120 if harness.FULL else 40, quiet=False)
    peers = [Peer(victim.address, "/?news", receive_buffer=4096) for _ in range(count)]
    victim.control.order(f"each 0.01 65536 {messages}")
    victim.php.wait_event("published", timeout=600)
    closed = victim.php.wait_event("close", count=count)
    codes = {event["code"] for event in closed}
    equal(codes, {4002}, "closed as slow")
    for peer in peers:
        peer.drop()
    victim.wait_gone()
    return victim.finish(f"up to {messages} messages of 64 KiB to each of {count} peers that never read, limits.memory 128 MiB: all closed as slow")


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
