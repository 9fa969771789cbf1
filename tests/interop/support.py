"""What the interop tests share: PHP peers driven over pipes, certificates, waiting with a limit."""

import asyncio
import json
import logging
import os
import re
import shutil
import subprocess
import tempfile
import unittest
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
# How long anything may take before a test calls it missing. Ten times what is expected and more.
PATIENCE = 20.0
# Broken links are what is tested; the tests say what they expected of them.
logging.getLogger("websockets").setLevel(logging.CRITICAL)


class Peer:
    """A child process that speaks lines of JSON on its standard streams."""

    def __init__(self, process: asyncio.subprocess.Process):
        self.process = process
        self.events: list[dict] = []
        self._arrived = asyncio.Condition()
        self._ended = False
        self._reader = asyncio.create_task(self._read())
        self._taken = 0

    @classmethod
    async def start(cls, *command: str, env: dict | None = None, **options) -> "Peer":
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env={**os.environ, **(env or {})},
            limit=64 << 20,
            **options,
        )
        return cls(process)

    async def _read(self) -> None:
        async for line in self.process.stdout:
            try:
                event = json.loads(line)
            except ValueError:
                event = {"event": "output", "line": line.decode(errors="replace")}
            async with self._arrived:
                self.events.append(event)
                self._arrived.notify_all()
        async with self._arrived:
            self._ended = True
            self._arrived.notify_all()

    async def expect(self, event: str, patience: float = PATIENCE, **fields) -> dict:
        """The next event of this name (and these fields) after the last one that was expected."""

        def matches(candidate: dict) -> bool:
            return candidate["event"] == event and all(candidate.get(k) == v for k, v in fields.items())

        async def wait() -> dict:
            position = self._taken
            async with self._arrived:
                while True:
                    for index in range(position, len(self.events)):
                        if matches(self.events[index]):
                            self._taken = index + 1
                            return self.events[index]
                    position = len(self.events)
                    if self._ended:
                        raise AssertionError(f"ended without {event} {fields}; had {self.events}")
                    await self._arrived.wait()

        try:
            return await asyncio.wait_for(wait(), patience)
        except TimeoutError:
            raise AssertionError(f"no {event} {fields} within {patience} s; had {self.events}") from None

    def seen(self, event: str) -> list[dict]:
        return [e for e in self.events if e["event"] == event]

    async def tell(self, op: str, **fields) -> None:
        self.process.stdin.write(json.dumps({"op": op, **fields}).encode() + b"\n")
        await self.process.stdin.drain()

    async def stop(self) -> None:
        if self.process.returncode is None:
            self.process.stdin.close()
            try:
                await asyncio.wait_for(self.process.wait(), 5)
            except TimeoutError:
                self.process.kill()
                await self.process.wait()
        await self._reader


def php_command(script: str) -> list[str]:
    module = os.environ.get("MODULE", str(ROOT / "modules" / "lifeline.so"))
    return [os.environ.get("PHP", "php"), "-n", "-d", f"extension={module}", str(HERE / script)]


class InteropCase(unittest.IsolatedAsyncioTestCase):
    """Starts peers and stops them when the test is over."""

    async def asyncSetUp(self) -> None:
        asyncio.get_running_loop().set_debug(False)
        self.folder = Path(tempfile.mkdtemp(prefix="lifeline-interop-"))
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)

    async def peer(self, *command: str, env: dict | None = None, **options) -> Peer:
        peer = await Peer.start(*command, env=env, **options)
        self.addAsyncCleanup(peer.stop)
        return peer

    async def server(self, options: dict | None = None, listen="ws://127.0.0.1:0", **config) -> tuple[Peer, str]:
        """A WsServer and the URL to reach it by."""
        config |= {"listen": listen, "options": options or {}}
        peer = await self.peer(*php_command("server.php"), json.dumps(config))
        address = (await peer.expect("ready"))["address"]
        if address.startswith("unix"):
            return peer, address
        scheme = "wss" if str(listen).startswith("wss") else "ws"
        return peer, f"{scheme}://127.0.0.1:{port_of(address)}"

    async def client(self, url, options: dict | None = None, env: dict | None = None) -> Peer:
        """A WsClient on its way to the URL."""
        return await self.peer(*php_command("client.php"), json.dumps({"url": url, "options": options or {}}), env=env)


def port_of(address: str) -> int:
    found = re.search(r":(\d+)/?$", address)
    if not found:
        raise AssertionError(f"no port in {address}")
    return int(found[1])


class Authority:
    """A throw-away certificate authority."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.cert = folder / "ca.pem"
        self._key = folder / "ca.key"
        self._openssl(
            "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
            "-subj", "/CN=lifeline test CA", "-addext", "basicConstraints=critical,CA:TRUE",
            # Python checks strictly from 3.13 on.
            "-addext", "keyUsage=critical,keyCertSign,cRLSign",
            "-keyout", self._key, "-out", self.cert,
        )

    def issue(self, name: str, *hosts: str, client: bool = False, file: str | None = None) -> tuple[Path, Path]:
        """A certificate and its key, for host names and addresses; as `file` or named after it."""
        stem = file or name
        cert, key, request = (self.folder / f"{stem}{suffix}" for suffix in (".pem", ".key", ".csr"))
        alternatives = ",".join(("IP:" if re.fullmatch(r"[\d.]+", h) else "DNS:") + h for h in hosts or [name])
        extensions = self.folder / f"{stem}.ext"
        extensions.write_text(
            f"subjectAltName={alternatives}\nbasicConstraints=CA:FALSE\n"
            "subjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n"
            f"extendedKeyUsage={'clientAuth' if client else 'serverAuth'}\n"
        )
        self._openssl(
            "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj", f"/CN={name}",
            "-keyout", key, "-out", request,
        )
        self._openssl(
            "x509", "-req", "-in", request, "-CA", self.cert, "-CAkey", self._key, "-CAcreateserial", "-days", "2",
            "-extfile", extensions, "-out", cert,
        )
        return cert, key

    @staticmethod
    def _openssl(*arguments) -> None:
        subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)


async def eventually(condition, patience: float = PATIENCE, every: float = 0.05):
    """Awaits until the coroutine function gives something true; its last value."""
    deadline = asyncio.get_running_loop().time() + patience
    while True:
        value = await condition()
        if value:
            return value
        if asyncio.get_running_loop().time() > deadline:
            raise AssertionError(f"not within {patience} s: {condition}")
        await asyncio.sleep(every)


async def free_port() -> int:
    """A port nobody listens on; for programs that cannot take port 0."""
    listener = await asyncio.start_server(lambda r, w: None, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    listener.close()
    await listener.wait_closed()
    return port
