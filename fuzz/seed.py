#!/usr/bin/env python3
"""Writes the corpus' seeds anew from tests/vectors: one file for each frame and each dialogue."""

import json
import pathlib

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
