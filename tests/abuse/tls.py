"""TLS: handshakes that stall, and servers whose certificate a WsClient must not take."""

import os
import shutil
import socket
import ssl
import subprocess
import tempfile
import threading

import harness
from handshakes import drip
from harness import LIMIT, Skip, check, client, equal
from servers import GROWTH, switching
from victim import MIB, Process, Victim, allow_descriptors, dial


class Authority:
    """Throw-away certificates in a folder of their own."""

    def __enter__(self):
        if shutil.which("openssl") is None:
            raise Skip("needs openssl")
        self.room = tempfile.TemporaryDirectory(prefix="lifeline-abuse-")
        self.folder = self.room.name
        self._run("req", "-x509", *self._key("ca"), "-subj", "/CN=lifeline abuse CA", "-days", "2", "-out", self.path("ca.pem"))
        self._run("req", "-x509", *self._key("other"), "-subj", "/CN=another CA", "-days", "2", "-out", self.path("other.pem"))
        return self

    def __exit__(self, *_):
        self.room.cleanup()

    def path(self, name):
        return os.path.join(self.folder, name)

    def _key(self, name):
        return "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", self.path(f"{name}.key")

    @staticmethod
    def _run(*words):
        subprocess.run(["openssl", *words], check=True, capture_output=True)

    def issue(self, name, alternatives="IP:127.0.0.1,DNS:localhost", signer="ca", dates=None):
        """Its certificate and key; `signer` None: by itself; `dates`: from and to as YYYYMMDDHHMMSSZ."""
        config = self.path(f"{name}.cnf")
        with open(config, "w") as file:
            file.write(
                "[ca]\ndefault_ca=own\n[own]\ndatabase=index\nserial=serial\nnew_certs_dir=.\ndefault_md=sha256\npolicy=any\n"
                "rand_serial=yes\nunique_subject=no\n[any]\ncommonName=supplied\n"
                f"[leaf]\nbasicConstraints=CA:FALSE\nsubjectAltName={alternatives}\nextendedKeyUsage=serverAuth\n"
                "[req]\ndistinguished_name=dn\n[dn]\n"
            )
        request, certificate = self.path(f"{name}.csr"), self.path(f"{name}.pem")
        if signer is None:
            self._run("req", "-x509", *self._key(name), "-subj", f"/CN={name}", "-days", "2", "-config", config, "-extensions", "leaf", "-out", certificate)
            return certificate, self.path(f"{name}.key")
        self._run("req", *self._key(name), "-subj", f"/CN={name}", "-out", request)
        open(self.path("index"), "w").close()
        when = ["-startdate", dates[0], "-enddate", dates[1]] if dates else ["-days", "2"]
        subprocess.run(
            ["openssl", "ca", "-batch", "-config", config, "-extensions", "leaf", "-in", request, "-out", certificate, "-notext",
             "-cert", f"{signer}.pem", "-keyfile", f"{signer}.key", *when],
            check=True, capture_output=True, cwd=self.folder,
        )
        return certificate, self.path(f"{name}.key")


def hello():
    """A whole ClientHello as a record."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ssl.create_default_context()
    link = context.wrap_bio(incoming, outgoing, server_hostname="localhost")
    try:
        link.do_handshake()
    except ssl.SSLWantReadError:
        pass
    return outgoing.read()


def test_stalls(_binary):
    """TLS handshakes that stop at each stage, or never begin, beside neighbours who speak TLS."""
    each, timeout = (1000 if harness.FULL else 100), 2
    allow_descriptors(8 * each + 500)
    with Authority() as authority:
        cert, key = authority.issue("localhost")
        context = ssl.create_default_context(cafile=authority.path("ca.pem"))
        options = {"tls": {"cert": cert, "key": key}, "limits": {"handshakeTimeout": timeout}}
        victim = Victim(options, growth=96 * MIB, cpu=120, tls=context, listen=["ws://127.0.0.1:0", "wss://127.0.0.1:0"])
        record = hello()
        stages = {
            "nothing": b"",
            "a byte": record[:1],
            "half a ClientHello": record[: len(record) // 2],
            "a whole ClientHello": record,
            # What it announces is 16 KiB.
            "the head of a record": b"\x16\x03\x01\x40\x00",
        }
        links = []
        for data in stages.values():
            for _ in range(each):
                link = dial(victim.address)
                link.sendall(data)
                if data == record:
                    # The server's answer is left where it is: it waits for ours.
                    link.shutdown(socket.SHUT_RD)
                links.append(link)
        # A handshake that is done, and no request behind it.
        for _ in range(each // 10):
            links.append(dial(victim.address, tls=context))
        # And what is no TLS: told at once.
        for data in (b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 100, b"\x16\x03\x01\xff\xff" + b"x" * 100):
            link = dial(victim.address)
            link.sendall(data)
            try:
                while link.recv(4096):
                    pass
            except OSError:
                pass
            link.close()
        seen = victim.wait_gone()
        for link in links:
            link.close()
        count = len(stages) * each + each // 10
        equal(seen["failedHandshakes"], count + 3, "failed handshakes")
        return victim.finish(f"{count} TLS handshakes stalled at {len(stages) + 1} stages, each cut after {timeout} s; 3 that were no TLS")


def test_drip(_binary):
    """ClientHellos that come a byte now and then."""
    count, timeout = (2000 if harness.FULL else 200), 2
    allow_descriptors(count + 500)
    with Authority() as authority:
        cert, key = authority.issue("localhost")
        context = ssl.create_default_context(cafile=authority.path("ca.pem"))
        options = {"tls": {"cert": cert, "key": key}, "limits": {"handshakeTimeout": timeout}}
        victim = Victim(options, growth=96 * MIB, cpu=60, tls=context, listen=["ws://127.0.0.1:0", "wss://127.0.0.1:0"])
        took = drip(victim, count, hello(), timeout)
        victim.wait_gone()
        return victim.finish(f"{count} ClientHellos of a byte now and then, each cut, the last after {took:.1f} s (limit {timeout} s)")


class TlsServer:
    """Accepts with that certificate and answers the WebSocket handshake, if the client goes so far."""

    def __init__(self, cert, key):
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(cert, key)
        self.socket = socket.socket()
        self.socket.bind(("127.0.0.1", 0))
        self.socket.listen(64)
        self.port = self.socket.getsockname()[1]
        self.requests = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                link, _ = self.socket.accept()
                link.settimeout(LIMIT)
                link = self.context.wrap_socket(link, server_side=True)
                request = link.recv(65536)
                if request:
                    self.requests.append(request)
                    link.sendall(switching(request))
                    link.recv(1)
            except OSError:
                if self.socket.fileno() < 0:
                    return

    def close(self):
        self.socket.close()


def test_certificates(_binary):
    """Wrong name, expired, not valid yet, self-signed, of another authority, no TLS at all: refused before anything is sent."""
    with Authority() as authority:
        cases = {
            "expired": (authority.issue("old", dates=("20200101000000Z", "20210101000000Z")), "127.0.0.1", "expired"),
            "not valid yet": (authority.issue("young", dates=("20980101000000Z", "20990101000000Z")), "127.0.0.1", "valid only in"),
            "for another name": (authority.issue("elsewhere", "DNS:elsewhere.example"), "localhost", "not for 'localhost' but for"),
            "for another address": (authority.issue("address", "IP:127.0.0.2"), "127.0.0.1", "not for '127.0.0.1'"),
            "for names below": (authority.issue("below", "DNS:*.localhost"), "localhost", "not for 'localhost'"),
            "for any name": (authority.issue("any", "DNS:*"), "localhost", "certificate is refused"),
            "for a name that only begins so": (authority.issue("nul", "DNS:localhost.evil.example"), "localhost", "not for 'localhost'"),
            "only in its common name": (authority.issue("localhost", "DNS:elsewhere.example"), "localhost", "not for 'localhost'"),
            "self-signed": (authority.issue("self", signer=None), "127.0.0.1", "certificate is refused"),
            "of another authority": (authority.issue("foreign", signer="other"), "127.0.0.1", "issuer is unknown"),
        }
        grown = []
        for name, ((cert, key), host, wanted) in cases.items():
            server = TlsServer(cert, key)
            # Credentials must not reach who has shown nothing.
            options = {
                "tls": {"ca": authority.path("ca.pem")}, "reconnect": {"maxAttempts": 1, "first": 0.01}, "protocols": [],
                "connect": {"timeout": 10, "headers": {"Authorization": "Bearer secret"}, "proxy": False},
            }
            php = client(url=f"wss://{host}:{server.port}/", options=options, wait=True)
            php.wait_event("started")
            usage = Process(php.pid)
            said = php.wait_event("error")[0]
            check(wanted in said["message"], f"{name}: {said}")
            equal(said["class"], "WsConnectException", name)
            equal((server.requests, php.events("state", to="Connected")), ([], []), f"{name}: what was sent")
            grown.append(usage._status("VmHWM") - usage.before)
            php.kill()
            server.close()
        # The right one is taken, so it was the certificate each time.
        server = TlsServer(*authority.issue("good"))
        options = {"tls": {"ca": authority.path("ca.pem")}, "protocols": [], "connect": {"proxy": False}}
        php = client(url=f"wss://127.0.0.1:{server.port}/", options=options)
        php.wait_event("state", to="Connected")
        php.kill()
        server.close()
        # No TLS, and silence.
        for name, data, wanted in (("plain text", b"HTTP/1.1 400 Bad Request\r\n\r\n", "does not speak TLS"), ("silence", b"", "connect.timeout")):
            plain = socket.socket()
            plain.bind(("127.0.0.1", 0))
            plain.listen(8)

            def answer():
                try:
                    while True:
                        link, _ = plain.accept()
                        link.recv(1)
                        if data:
                            link.sendall(data)
                        threading.Thread(target=lambda link=link: link.recv(1 << 20), daemon=True).start()
                except OSError:
                    return

            threading.Thread(target=answer, daemon=True).start()
            options = {"tls": {"verify": False}, "reconnect": {"maxAttempts": 1, "first": 0.01}, "protocols": [], "connect": {"timeout": 1, "proxy": False}}
            php = client(url=f"wss://127.0.0.1:{plain.getsockname()[1]}/", options=options, wait=True)
            said = php.wait_event("error")[0]["message"]
            check(wanted in said, f"{name}: {said}")
            php.kill()
            plain.close()
        check(max(grown) <= GROWTH, f"{max(grown) / MIB:.1f} MiB more")
        return f"{len(cases)} certificates and 2 servers without TLS, each refused with what is wrong, no byte of a request sent"
