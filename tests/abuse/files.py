"""Abuse of the option `static`."""

import os
import tempfile
import time

from harness import check, equal
from victim import MIB, Victim, dial, read_status

CONTENT = b"0123456789abcdef" * (MIB // 16) * 16


class Directory:
    """A public directory, beside a file that is none of it."""

    def __enter__(self):
        self.root = tempfile.TemporaryDirectory(prefix="lifeline-abuse-")
        self.public = os.path.join(self.root.name, "public")
        os.mkdir(self.public)
        for name, content in [("secret", b"SECRET"), ("public/.env", b"SECRET"), ("public/app.php", b"SECRET"), ("public/large", CONTENT)]:
            with open(os.path.join(self.root.name, name), "wb") as file:
                file.write(content)
        os.symlink("../secret", os.path.join(self.public, "link"))
        os.symlink("..", os.path.join(self.public, "up"))
        os.mkfifo(os.path.join(self.public, "pipe"))
        return self.public

    def __exit__(self, *_):
        self.root.cleanup()


def get(address, target, receive_buffer=None):
    link = dial(address, receive_buffer)
    link.sendall(b"GET " + target + b" HTTP/1.1\r\nHost: " + address.encode() + b"\r\n\r\n")
    return link


def test_ways_out(_binary):
    """Targets that try to leave the directory."""
    with Directory() as public:
        victim = Victim({"static": public})
        steps = [b"..", b"%2e%2e", b".%2e", b"%2E.", b"%252e%252e", b"%c0%ae%c0%ae", b"..%00", b"..;", b"up", b"...", b"..%20"]
        slashes = [b"/", b"%2f", b"%2F", b"\\", b"%5c", b"//", b"%c0%af", b"/./"]
        ends = [b"secret", b"etc/passwd", b"public/.env", b"secret%00.html"]
        targets = [b"/" + slash.join([step] * depth) + slash + end for step in steps for slash in slashes for end in ends for depth in (1, 2, 8)]
        targets += [b"/link", b"/pipe", b"/.env", b"/%2eenv", b"/app.php", b"/APP.PHP", b"/app%2ephp", b"/app.php/", b"//" + public.encode() + b"/.env"]
        targets += [b"file:///etc/passwd", b"http://other/../secret", b"http://" + b"a" * 9000, b"/" + b"a/" * 4000, b"/" + b"%41" * 3000]
        for target in targets:
            link = get(victim.address, target)
            answer = b""
            while more := link.recv(65536):
                answer += more
            link.close()
            status = int(answer.split(b" ", 2)[1])
            check(status in (301, 400, 404) and b"SECRET" not in answer and b"root:" not in answer, f"{target}: {answer}")
        victim.wait_gone()
        return victim.finish(f"{len(targets)} targets, none of which leads out of the directory")


def test_who_never_reads_a_file(_binary):
    """300 peers that ask for 16 MiB, read the head and no more."""
    timeout = 2
    with Directory() as public:
        victim = Victim({"static": public, "limits": {"handshakeTimeout": timeout}}, growth=64 * MIB)
        begin = time.monotonic()
        links = [get(victim.address, b"/large", 4096) for _ in range(300)]
        statuses = [read_status(link)[0] for link in links]
        served, refused = statuses.count(200), statuses.count(503)
        equal(served + refused, 300, f"statuses {set(statuses)}")
        check(200 <= served <= 256, f"{served} are served at a time")
        victim.wait_gone()
        took = time.monotonic() - begin
        for link in links:
            link.close()
        # Who reads gets it all, and the places are free again.
        link = get(victim.address, b"/large")
        status, body = read_status(link)
        received = bytearray(body)
        while more := link.recv(MIB):
            received += more
        equal((status, bytes(received) == CONTENT), (200, True), "the file")
        return victim.finish(f"{served} never read their file and were cut within {took:.1f} s, {refused} got 503")
