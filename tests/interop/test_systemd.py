"""What systemd gives a service and wants to hear from it: sockets that it has opened, and sd_notify(3).

There is no systemd here: sockets are passed by activate.py, and the test has the datagram socket that the
service tells how it is.
"""

import asyncio
import json
import os
import re
import signal
import socket
import sys

from support import HERE, PATIENCE, InteropCase, Peer, eventually, free_port, php_command
from websockets.asyncio.client import connect, unix_connect

EXPECTED = {"ping_interval": None, "open_timeout": PATIENCE}


class Passed(InteropCase):
    def listener(self, family=socket.AF_INET, address=("127.0.0.1", 0)) -> socket.socket:
        listening = socket.socket(family)
        self.addCleanup(listening.close)
        listening.bind(address)
        listening.listen(64)
        return listening

    async def activated(self, sockets: dict[str, socket.socket], listen, env: dict | None = None, **options) -> Peer:
        named = [f"{name}={held.fileno()}" for name, held in sockets.items()]
        config = json.dumps({"listen": listen, "options": options})
        return await self.peer(
            sys.executable, str(HERE / "activate.py"), *named, "--", *php_command("server.php"), config,
            env=env, pass_fds=[held.fileno() for held in sockets.values()],
        )

    async def echoed(self, connecting) -> None:
        async with connecting as peer:
            await peer.send("hello")
            self.assertEqual(await asyncio.wait_for(peer.recv(), PATIENCE), "hello")

    async def test_who_connects_while_the_service_is_started_anew_waits(self):
        web = self.listener()
        url = "ws://127.0.0.1:%d" % web.getsockname()[1]
        server = await self.activated({"web": web}, url)
        self.assertEqual((await server.expect("ready"))["address"], url)
        await self.echoed(connect(url, **EXPECTED))
        server.process.kill()
        await server.process.wait()
        early = asyncio.create_task(self.echoed(connect(url, **EXPECTED)))
        await asyncio.sleep(0)
        await (await self.activated({"web": web}, url)).expect("ready")
        await early

    async def test_by_name_by_address_and_what_is_left(self):
        path = str(self.folder / "app.sock")
        sockets = {
            "web": self.listener(),
            "any": self.listener(socket.AF_INET6, ("::", 0)),
            "path": self.listener(socket.AF_UNIX, path),
            "abstract": self.listener(socket.AF_UNIX, "\0" + path),
            "admin": self.listener(),
        }
        port = {name: held.getsockname()[1] for name, held in sockets.items()}
        listen = ["systemd:", "systemd:web", f"ws://0.0.0.0:{port['any']}", f"unix://{path}"]
        # Before what is left is given out to the first.
        server = await self.activated(sockets, listen[1:] + ["systemd:abstract"], admin=f"127.0.0.1:{port['admin']}")
        self.assertEqual((await server.expect("ready"))["address"], f"ws://127.0.0.1:{port['web']}")
        await self.echoed(connect(f"ws://127.0.0.1:{port['any']}", **EXPECTED))
        await self.echoed(unix_connect(path, uri="ws://localhost/", **EXPECTED))
        await self.echoed(unix_connect("\0" + path, uri="ws://localhost/", **EXPECTED))
        reader, writer = await asyncio.open_connection("127.0.0.1", port["admin"])
        writer.write(b"GET /readyz HTTP/1.0\r\n\r\n")
        self.assertIn(b"200 OK", await asyncio.wait_for(reader.read(), PATIENCE))
        writer.close()
        await server.stop()
        self.assertTrue(os.path.exists(path), "its file is the manager's")
        # First in the list, but what others name is theirs.
        server = await self.activated(sockets, listen)
        left = (await server.expect("ready"))["address"]
        self.assertEqual(left, f"unix://@{path}")

    async def test_what_is_not_there_is_named(self):
        web = self.listener()
        port = web.getsockname()[1]
        taken = self.listener()
        for listen, env, why in (
            ("systemd:", {"LISTEN_PID": "1"}, "cannot listen on systemd:: LISTEN_PID is 1, but this process is "),
            ("systemd:other", {}, rf"no socket of the name 'other' is left; passed were ws://127.0.0.1:{port} \(web\)"),
            ("ws://127.0.0.1:%d" % taken.getsockname()[1], {}, rf"already in use \(passed were ws://127.0.0.1:{port} \(web"),
            (["systemd:web", "systemd:"], {}, "cannot listen on systemd:: no socket is left"),
        ):
            server = await self.activated({"web": web}, listen, env)
            await server.process.wait()
            await server._reader
            self.assertRegex("".join(event.get("line", "") for event in server.events), why)
        server = await self.peer(*php_command("server.php"), json.dumps({"listen": "systemd:"}))
        await server.process.wait()
        await server._reader
        self.assertIn("LISTEN_FDS is not set", "".join(event.get("line", "") for event in server.events))


class Manager:
    """The other end of NOTIFY_SOCKET."""

    def __init__(self, case: InteropCase, address: str):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        case.addCleanup(self.socket.close)
        self.socket.bind(address)
        self.socket.setblocking(False)
        self.heard: list[str] = []

    def listen(self) -> None:
        while True:
            try:
                self.heard.append(self.socket.recv(4096).decode())
            except BlockingIOError:
                return

    def beats(self) -> int:
        self.listen()
        return self.heard.count("WATCHDOG=1")

    async def hears(self, pattern: str) -> re.Match:
        deadline = asyncio.get_running_loop().time() + PATIENCE
        while True:
            self.listen()
            for message in self.heard:
                if found := re.search(pattern, message):
                    return found
            if asyncio.get_running_loop().time() > deadline:
                raise AssertionError(f"never told {pattern}; heard {self.heard[-5:]}")
            await asyncio.sleep(0.01)

    async def beat(self) -> None:
        """One more than so far."""
        so_far = self.beats()
        deadline = asyncio.get_running_loop().time() + PATIENCE
        while self.beats() == so_far:
            if asyncio.get_running_loop().time() > deadline:
                raise AssertionError("no further beat")
            await asyncio.sleep(0.01)


async def end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.kill()
    await process.wait()


class Notify(InteropCase):
    async def served(self, environment: dict, **options) -> tuple[Peer, str]:
        config = json.dumps({"listen": "ws://127.0.0.1:0", "options": options})
        server = await self.peer(*php_command("server.php"), config, env=environment)
        return server, (await server.expect("ready"))["address"]

    async def test_readiness_status_and_the_end(self):
        path = str(self.folder / "notify")
        for name, address in ((path, path), ("@" + path, "\0" + path)):
            manager = Manager(self, address)
            server, url = await self.served({"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "20000", "WATCHDOG_PID": "1"})
            manager.listen()
            # It is there before start() has returned.
            self.assertEqual(manager.heard, [f"READY=1\nSTATUS=0 connections on {url}"])
            async with connect(url, **EXPECTED) as peer:
                if name == path:
                    await manager.hears(rf"^STATUS=1 connection on {url}$")
                await server.tell("stop", drain=2.5)
                await manager.hears(r"^STOPPING=1\nEXTEND_TIMEOUT_USEC=7500000\nSTATUS=1 connection, stopping$")
                await asyncio.wait_for(peer.wait_closed(), PATIENCE)
            await server.expect("end")
            await server.stop()
            manager.listen()
            self.assertEqual(manager.beats(), 0, "asked of another process")
            self.assertEqual([message for message in manager.heard if "MAINPID" in message], [])

    async def test_with_workers_it_is_ready_when_they_are(self):
        path, gate = str(self.folder / "notify"), self.folder / "gate"
        manager = Manager(self, path)
        port = await free_port()
        config = json.dumps({"options": {"workers": 2, "admin": f"127.0.0.1:{port}"}, "gate": str(gate)})
        gateway = await asyncio.create_subprocess_exec(
            *php_command("workers.php"), config, env={**os.environ, "NOTIFY_SOCKET": path}, stdout=asyncio.subprocess.PIPE
        )
        self.addAsyncCleanup(end, gateway)

        async def ready() -> int | None:
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                return None
            writer.write(b"GET /readyz HTTP/1.0\r\nHost: localhost\r\n\r\n")
            answer = await asyncio.wait_for(reader.read(), PATIENCE)
            writer.close()
            return int(answer.split()[1])

        self.assertEqual(await eventually(ready), 503)
        manager.listen()
        self.assertEqual(manager.heard, [])
        gate.touch()
        url = (await asyncio.wait_for(gateway.stdout.readline(), PATIENCE)).decode().split()[2]
        await manager.hears(rf"^READY=1\nSTATUS=0 connections on {url}$")
        self.assertEqual(await ready(), 200)
        async with connect(url, **EXPECTED) as peer:
            await peer.send("hello")
            worker = int((await asyncio.wait_for(peer.recv(), PATIENCE)).split()[-1])
            # As ExecReload= does.
            gateway.send_signal(signal.SIGUSR1)

            async def moved() -> bool:
                await peer.send("hello")
                return int((await asyncio.wait_for(peer.recv(), PATIENCE)).split()[-1]) != worker

            await eventually(moved)
            gateway.terminate()
            await manager.hears(r"^STOPPING=1\nEXTEND_TIMEOUT_USEC=\d+\nSTATUS=1 connection, stopping$")
            await asyncio.wait_for(peer.wait_closed(), PATIENCE)
            self.assertEqual(peer.close_code, 1001)
        self.assertEqual(await asyncio.wait_for(gateway.wait(), PATIENCE), 0)
        manager.listen()
        # Only the gateway speaks.
        self.assertEqual(sum("READY=1" in message for message in manager.heard), 1)

    async def test_beats_while_php_dispatches(self):
        path = str(self.folder / "notify")
        manager = Manager(self, path)
        # 20 beats a second.
        server, url = await self.served({"NOTIFY_SOCKET": path, "WATCHDOG_USEC": "100000"}, watchdog={"lag": 0.3})
        async with connect(url, **EXPECTED) as peer:
            await manager.beat()
            await manager.beat()
            before = manager.beats()
            await peer.send("block 3")
            answer = asyncio.create_task(peer.recv())
            # Its socket takes few that nobody reads.
            while not answer.done():
                manager.listen()
                await asyncio.sleep(0.01)
            self.assertEqual(await answer, "awake")
            # 60 if nobody minded.
            self.assertLess(manager.beats() - before, 30)
            await manager.beat()
            await manager.beat()
        await server.tell("stop", drain=0)
        await server.expect("end")
        last = manager.beats()
        await server.stop()
        self.assertEqual(manager.beats(), last)
        await manager.hears("STOPPING=1")

    async def test_a_manager_that_is_not_there_or_unheard_of(self):
        server, url = await self.served({"NOTIFY_SOCKET": "vsock:2:9999"})
        await server.expect("log", message="the service manager cannot be told: NOTIFY_SOCKET must be an absolute path or '@name', 'vsock:2:9999' given")
        server, url = await self.served({"NOTIFY_SOCKET": str(self.folder / "nobody")})
        async with connect(url, **EXPECTED) as peer:
            await peer.send("hello")
            self.assertEqual(await asyncio.wait_for(peer.recv(), PATIENCE), "hello")
