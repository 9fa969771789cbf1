"""Log injection: what peers send must not make lines, or command a terminal, where logs are read."""

import os
import re
import tempfile

from harness import Php, check, equal
from servers import Server, served
from victim import Peer, Victim, dial, frame, read_status, request

# The end of a line and a line that looks like one of ours, a terminal's title, colour and 8-bit command, NUL,
# a line separator and text that runs backwards.
POISON = "x\r\nlifeline emergency: FORGED\x1b]0;title\x07\x1b[31m\u009b31m\0\u2028FORGED\u202eback"
BAD = re.compile("[\x00-\x08\x0b-\x1f\x7f\x80-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def check_records(php, what):
    """What a logger or onError was given."""
    count = 0
    for event in php.events("log") + php.events("error"):
        texts = [event["message"], *map(str, event.get("context", {}).values())]
        for text in texts:
            check(not BAD.search(text) and "\n" not in text, f"{what}: {text!r}")
            check(len(text.encode()) <= 4200, f"{what}: {len(text)} characters")
        count += 1
    return count


def check_file(path, what):
    """PHP's error log: each line begins as lifeline writes it, or PHP with the trace of an exception."""
    with open(path, encoding="utf-8", errors="replace", newline="\n") as file:
        lines = file.read().split("\n")[:-1]
    for line in lines:
        check(re.match(r"\[[^]]+\] (lifeline \w+: |PHP |uncaught: )|Stack trace:$|#\d+ |  thrown in ", line), f"{what}: a line {line!r}")
        check(not BAD.search(line), f"{what}: {line!r}")
    return len(lines)


class ErrorLog:
    """A file for PHP's error log."""

    def __enter__(self):
        self.folder = tempfile.TemporaryDirectory(prefix="lifeline-abuse-")
        self.path = os.path.join(self.folder.name, "log")
        open(self.path, "w").close()
        self.settings = ("log_errors=1", "display_errors=0", f"error_log={self.path}")
        return self

    def __exit__(self, *_):
        self.folder.cleanup()


def poison_server(address):
    """All that a peer may put into a server's logs; how much of it."""
    raw = POISON.encode()
    visible = POISON.replace("\r", "").replace("\n", "").replace("\0", "").replace("\x1b", "").replace("\x07", "").encode()
    heads = [
        request(address, path="/" + raw.decode("latin-1")),
        b"GET /" + raw + b" HTTP/1.1\r\n\r\n",
        raw + b"\r\n\r\n",
        request(address, path="/%0d%0alifeline%20emergency:%20FORGED%1b[31m"),
        request(address)[:-2] + b"X-Evil: " + raw + b"\r\n\r\n",
        request(address)[:-2] + b"Origin: http://" + visible + b"\r\n\r\n",
        request(address)[:-2] + b"User-Agent: " + visible + b"\r\n\r\n",
        request(address)[:-2] + b"Sec-WebSocket-Protocol: " + visible + b"\r\n\r\n",
        request(address)[:-2] + b"Sec-WebSocket-Version: " + visible + b"\r\n\r\n",
        request(address)[:-2] + b"X-Forwarded-For: " + visible + b"\r\n\r\n",
    ]
    for head in heads:
        link = dial(address)
        link.sendall(head)
        try:
            read_status(link)
        except AssertionError:
            pass
        link.close()
    reason = POISON.encode()[:123].decode(errors="ignore").encode()
    frames = [
        frame(8, b"\x03\xe8" + reason),
        frame(8, b"\x0f\xa0" + reason),
        frame(1, POISON.encode()),
        frame(9, reason),
        frame(3, reason),
        frame(1, POISON.encode() + b"\xff"),
    ]
    for data in frames:
        peer = Peer(address)
        peer.send(data)
        if data[0] in (0x81, 0x89) and data[-1] != 0xFF:
            peer.send(frame(8, b"\x03\xe8"))
        peer.end()
        peer.drop()
    lifeline = [
        'H {"v":1,"auth":"\\r\\nlifeline emergency: FORGED\\u001b[31m"}',
        'H {"v":1,"resume":{"sid":"\\r\\nFORGED","tok":"\\u001b","s":0,"ch":{}}}',
        'H {"v":1,"resume":{"sid":"a","tok":"b","s":0,"ch":{"\\r\\nFORGED":{"e":"e","o":1,"mid":"m"}}}}',
        f"H {POISON}",
        POISON,
        "S %0d%0aFORGED",
    ]
    for text in lifeline:
        peer = Peer(address, headers="Sec-WebSocket-Protocol: lifeline.v1\r\n")
        peer.send(frame(1, text.encode()))
        if '"auth"' in text:
            for name in ("%0d%0aFORGED", "a%1b[31m", "%c2%9b31m", "ok"):
                peer.send(frame(1, f"S {name}".encode()))
            peer.send(frame(8, b"\x03\xe8" + reason))
        peer.end()
        peer.drop()
    return len(heads) + len(frames) + len(lifeline)


def test_server(_binary):
    """URLs, headers, protocols, close reasons, credentials and channels, to a logger and to onError at level debug."""
    victim = Victim({"logLevel": "debug"}, trace=True, choose="chat", quiet=True)
    count = poison_server(victim.address)
    victim.wait_gone()
    records = check_records(victim.php, "a record")
    check(records >= 20, f"{records} records")
    return victim.finish(f"{count} poisoned requests, frames and closes, {records} records: one line each, without a control character", errors=None)


def test_server_default(_binary):
    """The same to PHP's error log, with neither logger nor onError."""
    with ErrorLog() as log:
        victim = Victim({"logLevel": "debug"}, trace=True, choose="chat", defaultLog=True, settings=log.settings)
        count = poison_server(victim.address)
        victim.wait_gone()
        lines = check_file(log.path, "a line")
        check(lines >= 20, f"{lines} lines")
        return victim.finish(f"{count} poisoned requests, frames and closes, {lines} lines in the error log, each of our own making", errors=None)


def poisoned_answers():
    """Name: (attack, whether the handshake is answered first, headers)."""
    reason = POISON.encode()[:123].decode(errors="ignore").encode()
    raw = POISON.encode()
    visible = POISON.replace("\r", "").replace("\n", "").replace("\0", "").replace("\x1b", "").replace("\x07", "").encode()
    body = b"Content-Length: %d\r\n\r\n" % len(raw) + raw

    def send(data):
        return lambda link, _request: (link.sendall(data), link.recv(1))

    return {
        "a close reason": (send(served(8, b"\x03\xea" + reason)), True),
        "a close reason that may be tried again": (send(served(8, b"\x03\xe9" + reason)), True),
        "a body": (send(b"HTTP/1.1 403 Forbidden\r\n" + body), False),
        "a reason phrase": (send(b"HTTP/1.1 403 " + visible + b"\r\nContent-Length: 0\r\n\r\n"), False),
        "a redirect": (send(b"HTTP/1.1 302 Found\r\nLocation: ws://" + visible + b"\r\nContent-Length: 0\r\n\r\n"), False),
        "a protocol": (send(b"HTTP/1.1 101 X\r\nUpgrade: " + visible + b"\r\n\r\n"), False),
        "no HTTP": (send(raw), False),
        "no HTTP, from its first byte": (send(b"\x1b[31m\x9b31m" + raw), False),
    }


def test_client(_binary):
    """Close reasons, refusals, redirects and headers of a server: to a client's logger, onError and PHP's error log."""
    records = lines = 0
    answers = poisoned_answers()
    for name, (attack, upgrade) in answers.items():
        for default in (False, True):
            server = Server(attack, upgrade=upgrade)
            with ErrorLog() as log:
                options = {"reconnect": {"maxAttempts": 1, "first": 0.01}, "protocols": [], "logLevel": "debug", "connect": {"timeout": 5}}
                config = {"url": server.url + "/", "options": options, "logger": not default, "defaultLog": default}
                php = Php("client.php", config, settings=log.settings)
                php.wait_event("state", to="Closed")
                php.wait_event("ended")
                if default:
                    lines += check_file(log.path, name)
                else:
                    records += check_records(php, name)
                    check(php.events("error"), f"{name}: no error")
                php.kill()
            server.close()
    check(records >= 3 * len(answers) and lines >= 3 * len(answers), f"{records} records, {lines} lines")
    return f"{len(answers)} poisoned answers, {records} records and {lines} lines in the error log: one line each, without a control character"
