"""Zip bombs: what inflates to far more than limits.maxMessage (RFC 7692)."""

import zlib

import harness
from harness import Skip, check, equal
from servers import Server, meet, served
from victim import MIB, Peer, Victim, dial, frame, read_status, request

OFFER = "Sec-WebSocket-Extensions: permessage-deflate{}\r\n"
# Payloads of one byte repeated: a thousandth of what they inflate to.
BOMB = 256 * MIB
MODES = {"without context takeover": ("; client_no_context_takeover; server_no_context_takeover", False), "with context takeover": ("", True)}


def deflated(size, whole=True):
    """`size` zeros as RFC 7692 section 7.2.1 has them."""
    machine = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = b"\0" * MIB
    out = b"".join(machine.compress(block[: min(MIB, size - at)]) for at in range(0, size, MIB)) + machine.flush(zlib.Z_SYNC_FLUSH)
    return out[:-4] if whole else out


def agreed(victim, parameters):
    """A peer whose offer the server has taken."""
    link = dial(victim.address)
    link.sendall(request(victim.address, headers=OFFER.format(parameters)))
    head = b""
    while b"\r\n\r\n" not in head:
        head += link.recv(4096)
    if b"permessage-deflate" not in head.lower():
        raise Skip("this build declines permessage-deflate")
    peer = Peer.__new__(Peer)
    peer.link, peer.data = link, bytearray(head.split(b"\r\n\r\n", 1)[1])
    return peer


def test_bombs(_binary):
    """256 MiB of zeros in 256 KiB, in each form, on many connections at once."""
    count = 200 if harness.FULL else 40
    bomb = deflated(BOMB)
    said = []
    for name, (parameters, takeover) in MODES.items():
        victim = Victim({"compression": {"contextTakeover": takeover}}, growth=48 * MIB + count * 5 * MIB // 4, cpu=120)
        # A first message for a context to be there.
        peers = [agreed(victim, parameters) for _ in range(count)]
        for peer in peers:
            peer.send(frame(2, deflated(100), rsv=4))
            equal(len(peer.read(2)) > 0, True, "the echo")
        cut = len(bomb) // 100
        forms = {
            "whole": [frame(2, bomb, rsv=4)],
            "in 100 fragments": [frame(2, bomb[:cut], fin=False, rsv=4)] + [frame(0, bomb[at : at + cut], fin=False) for at in range(cut, len(bomb), cut)] + [frame(0)],
            "in frames of a byte": [frame(2, bomb[:1], fin=False, rsv=4)] + [frame(0, bomb[at : at + 1], fin=False) for at in range(1, 20_000)],
            "text": [frame(1, bomb, rsv=4)],
        }
        codes = []
        for number, peer in enumerate(peers):
            try:
                peer.send(b"".join(list(forms.values())[number % len(forms)]))
            except OSError:
                pass  # It is closed before the end.
        for peer in peers:
            codes.append(peer.end())
            peer.drop()
        equal(set(codes), {1009}, f"how the bombs {name} end")
        victim.wait_gone()
        said.append(victim.finish(f"{count} bombs of {BOMB // MIB} MiB {name}, in {len(forms)} forms, each closed with 1009", errors=count))
    return " || ".join(said)


def test_just_below(_binary):
    """Messages that inflate to limits.maxMessage exactly are taken, a byte more is not: on many connections at once."""
    count = 100 if harness.FULL else 20
    victim = Victim({"compression": True}, growth=count * 4 * MIB + 48 * MIB, cpu=120)
    peers = [agreed(victim, "; client_no_context_takeover") for _ in range(count)]
    fits, over = deflated(MIB), deflated(MIB + 1)
    for peer in peers:
        peer.send(frame(2, fits, rsv=4) + frame(9, b"alive"))
        while peer.read_frame() != (0xA, b"alive"):
            pass
        peer.send(frame(2, over, rsv=4))
        equal(peer.end(), 1009, "a byte more")
        peer.drop()
    victim.wait_gone()
    return victim.finish(f"{count} messages that inflate to 1 MiB taken, {count} of a byte more closed with 1009", errors=count)


def test_bad_deflate(_binary):
    """What is no deflate, and reserved bits where none may be."""
    victim = Victim({"compression": True}, cpu=60)
    cases = {
        "no deflate": (frame(2, b"\xff" * 100, rsv=4), (1002, 1007)),
        "a reserved block type": (frame(1, b"\x07", rsv=4), (1002, 1007)),
        "a distance beyond the window": (frame(1, b"\x4b\x04\x72\x00", rsv=4), (1002, 1007)),
        "text that inflates to invalid UTF-8": (frame(1, zlib_raw(b"ok\xff\xfe"), rsv=4), (1007,)),
        "RSV1 on a continuation": (frame(1, b"", fin=False, rsv=4) + frame(0, b"", rsv=4), (1002,)),
        "RSV1 on a ping": (frame(9, b"x", rsv=4), (1002,)),
        "RSV2": (frame(1, b"x", rsv=2), (1002,)),
    }
    count = 0
    for name, (data, codes) in cases.items():
        peer = agreed(victim, "; client_no_context_takeover")
        peer.send(data)
        code = peer.end()
        if name == "a distance beyond the window" and code is None:
            continue
        check(code in codes, f"{name}: {code}")
        count += 1
        peer.drop()
    victim.wait_gone()
    return victim.finish(f"{count} kinds of bad deflate, each closed", errors=None)


def zlib_raw(data):
    machine = zlib.compressobj(9, zlib.DEFLATED, -15)
    return (machine.compress(data) + machine.flush(zlib.Z_SYNC_FLUSH))[:-4]


def test_client(_binary):
    """A server's bomb against a WsClient."""
    bomb = deflated(BOMB)

    def attack(link, _request):
        if b"permessage-deflate" not in _request:
            link.close()
            return
        link.sendall(served(2, bomb, rsv=4))
        link.recv(1 << 16)

    offered = []
    server = Server(lambda link, request: (offered.append(b"permessage-deflate" in request.lower()), attack(link, request)),
                    headers="Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover; client_no_context_takeover\r\n")
    php, usage = meet(server, {"compression": True}, ends=False)
    closed = php.wait_event("state", to="Closed")
    if not offered or not offered[0]:
        raise Skip("this build does not offer permessage-deflate")
    equal(php.wait_event("close")[0]["code"], 1009, "how the bomb ends")
    said = usage.check(f"a bomb of {BOMB // MIB} MiB from a server, closed with 1009", 32 * MIB, 30)
    check(closed, "not closed")
    php.kill()
    server.close()
    return said
