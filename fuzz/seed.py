#!/usr/bin/env python3
"""Writes the corpus' seeds anew from tests/vectors: one file for each frame and each dialogue."""

import json
import pathlib
import zlib

root = pathlib.Path(__file__).resolve().parent
vectors = root.parent / "tests" / "vectors"


def write(target, name, data):
    folder = root / "corpus" / target
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(data)


for index, frame in enumerate(json.loads((vectors / "frames.json").read_text())):
    text = frame["text"] + "x" * frame.get("repeat", 0)
    flags = (1 if frame.get("binary") else 0) | (2 if frame["from"] == "server" else 0)
    write("frames", f"seed-{index:03}", bytes([flags]) + text.encode())

SERVER = {"connect": b"+1", "cut": b"-1", "cut, unseen by the server": b"-1", "server handles": b"d1\xffb1",
          "server handler fails": b"f1", "server sends": b"s1hi", "publish": b"p1hi", "sleep": b"tz",
          "server rejects": b"n1", "server subscribes": b"k1", "drain": b"X1", "state": b"a1"}
CLIENT = {"connect": b"c1", "cut": b"-1", "cut, unseen by the server": b"-1", "send": b"i1", "subscribe": b"S1",
          "unsubscribe": b"U1", "client handles": b"d1\xffb1", "client beats": b"B1", "sleep": b"tz", "expire": b"g1"}

for index, dialogue in enumerate(json.loads((vectors / "dialogues.json").read_text())):
    to_server, to_client = [], []
    for step in dialogue["steps"]:
        to_server += [SERVER[step["do"]]] if step.get("do") in SERVER else []
        to_client += [CLIENT[step["do"]]] if step.get("do") in CLIENT else []
        if "client" in step and not step.get("lost"):
            to_server += [b"m1" + step["client"].encode(), b"a1state"]
        if "server" in step and not step.get("lost"):
            to_client.append(b"m1" + step["server"].encode())
    write("server", f"seed-{index:03}", b"\xff".join(to_server))
    write("server", f"seed-{index:03}-ask", b"?\xff" + b"\xff".join(to_server))
    write("server", f"seed-{index:03}-store", b"!\xff" + b"\xff".join(to_server))
    write("client", f"seed-{index:03}", b"\xff".join(to_client))


def frame(opcode, payload, fin=True, mask=None):
    head = bytes([(0x80 if fin else 0) | opcode])
    masked = 0x80 if mask else 0
    if len(payload) < 126:
        head += bytes([masked | len(payload)])
    else:
        head += bytes([masked | 126]) + len(payload).to_bytes(2, "big")
    if mask:
        payload = bytes(byte ^ mask[index % 4] for index, byte in enumerate(payload))
        head += mask
    return head + payload


MASK = b"\x01\x02\x03\x04"
for index, (role, mask) in enumerate([(0, None), (1, MASK)]):
    for number, message in enumerate([
        frame(1, "P 1\nhé".encode(), mask=mask),
        frame(2, b"\0" * 300, mask=mask),
        frame(1, b"a", fin=False, mask=mask) + frame(9, b"ping", mask=mask) + frame(0, b"b", mask=mask),
        frame(8, b"\x03\xe8bye", mask=mask),
        frame(8, b"", mask=mask) + frame(10, b"x", mask=mask),
    ]):
        write("decoder", f"seed-{index}{number}", bytes([role | 14]) + message)


REQUEST = b"GET /chat?a=b%20c HTTP/1.1\r\nHost: example.org\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n" \
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
for index, more in enumerate([
    b"", b"Origin: http://example.org\r\n", b"Origin: https://a.b.example.org:444\r\nCookie: a=1; b=\"2\"\r\n",
    b"Sec-WebSocket-Protocol: chat, lifeline.v1\r\n", b"X-Forwarded-For: 203.0.113.7, 10.1.2.3\r\nX-Forwarded-Proto: https\r\n",
    b"Forwarded: for=\"[2001:db8:cafe::17]:4711\";proto=https;host=a.example, for=10.0.0.2\r\n",
    b"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n", b"Content-Length: 5\r\n", b" folded\r\n",
]):
    for flags in (b"\x00", b"\x03", b"\x21"):
        write("request", f"seed-{index}{flags.hex()}", flags + REQUEST + more + b"\r\n\x81\x80\0\0\0\0")
write("request", "seed-plain", b"\x02HEAD http://example.org/x HTTP/1.0\r\n\r\n")

ANSWER = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" \
    b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"
for index, more in enumerate([
    b"", b"Sec-WebSocket-Protocol: chat\r\n", b"Sec-WebSocket-Extensions: permessage-deflate\r\n",
    b"Lifeline-Spread: 0.25\r\nRetry-After: Sun, 06 Nov 1994 08:49:37 GMT\r\n",
]):
    for flags in (b"\x00", b"\x01", b"\x21"):
        write("answer", f"seed-{index}{flags.hex()}", flags + ANSWER + more + b"\r\n\x81\x01x")
write("answer", "seed-interim", b"\x00HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + ANSWER + b"\r\n")
write("answer", "seed-refusal", b"\x08HTTP/1.1 503 Busy\nRetry-After: 120\n\nwait")

for index, header in enumerate([
    b"PROXY TCP4 203.0.113.7 198.51.100.1 4711 443\r\n", b"PROXY TCP6 2001:db8::7 2001:db8::1 4711 443\r\n",
    b"PROXY UNKNOWN\r\n", b"PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n",
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xcb\0\x71\x07\xc6\x33\x64\x01\x12\x67\x01\xbb",
    b"\r\n\r\n\0\r\nQUIT\n\x21\x21\0\x24" + bytes(36), b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0",
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x10" + bytes(12) + b"\x04\0\x01x",
]):
    write("proxy", f"seed-{index}", bytes([index]) + header + b"GET / HTTP/1.1\r\n")

# Segments: see fuzz/src/disk.rs for the letters.
for index, steps in enumerate([
    b"\0\x01h\0r\0\0\0\x03onerr\x01\x00\x00\x03two", b"\0\x01h\0r\0\0\2\x04headr\x01\0\0\x03onem\x02\0\x01r\x03\0\3\0",
    b"\1\x01h\0r\0\0\0\x01ae\x02h\x01r\0\0\0\x01b", b"\0\x01h\0r\0\0\0\x03onez", b"\0\x01h\0r\0\0\0\x03oner\x01\x20\0\x03twob\x80\x01",
    b"\0\xffh\0r\xf0\0\0\x03one", b"\0\x01h\xffr\0\0\0\x03one", b"\0\x01h\0m\0\0\xff", b"\2\x01h\0e\xf0h\0e\xffh\0r\0\0\0\x01x", b"\0\x01x\x20" + b"lifelog2" + bytes(24),
]):
    write("log", f"seed-{index}", steps)

for flags in range(16):
    write("kept", f"seed-{flags:02}", bytes([flags]) + b"\x10" + bytes(range(1, 17)) + b"\x20" + b"\1\0" + (1).to_bytes(8, "little")
          + bytes(8) + b"hello world!!!" + b"\x0a" + b"\2\0" + (1).to_bytes(8, "little"))

for index, line in enumerate([
    b"permessage-deflate", b"permessage-deflate; client_max_window_bits", b"permessage-deflate; server_no_context_takeover; client_no_context_takeover",
    b"permessage-deflate; server_max_window_bits=10; client_max_window_bits=\"12\"", b"x-webkit-deflate-frame, permessage-deflate; server_max_window_bits=8",
    b"permessage-deflate; client_max_window_bits=9\npermessage-deflate", b"a; b=\"\\c\", , permessage-deflate;server_no_context_takeover=1",
]):
    for flags in (b"\0", b"\x11", b"\xff"):
        write("extensions", f"seed-{index}{flags.hex()}", flags + line)


def raw(data, level=6, flush=zlib.Z_SYNC_FLUSH):
    packer = zlib.compressobj(level, zlib.DEFLATED, -15)
    return packer.compress(data) + packer.flush(flush)


TEXT = b"lifeline lifeline lifeline, a line of life. " * 8
PACKED = [raw(TEXT)[:-4], raw(bytes(20_000))[:-4], raw(TEXT, 0)[:-4], raw(TEXT, 6, zlib.Z_FINISH), raw(TEXT, 6, zlib.Z_FINISH) + b"\0",
          b"\0", raw(bytes(range(256)))[:-4], raw(b"x" * 4096)[:-4], raw(b"x" * 4097)[:-4], b"\x07", raw(TEXT)[:20]]
for index, packed in enumerate(PACKED):
    for flags in (b"\x05\0", b"\x15\x03", b"\xf5\xff"):
        write("deflate", f"seed-{index:02}{flags.hex()}", flags + packed + b"\xff\xfe" + PACKED[0])
