"""The files of docs/recipes: systemd's units, a rolling deploy behind nginx, Kubernetes' probes and preStop."""

import asyncio
import configparser
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

from support import HERE, PATIENCE, ROOT, Peer, eventually, free_port, php_command
from test_proxies import ReverseProxyCase
from websockets.asyncio.client import connect

RECIPES = ROOT / "docs" / "recipes"


def unit(name: str) -> configparser.ConfigParser:
    """A unit file; each key once, which ours are content with (systemd.syntax(7))."""
    parsed = configparser.ConfigParser(delimiters="=", comment_prefixes="#", strict=True, interpolation=None)
    parsed.optionxform = str
    parsed.read_string((RECIPES / name).read_text())
    return parsed


class Recipes(ReverseProxyCase):
    async def service(self, config: dict, *start: str, **options) -> tuple[asyncio.subprocess.Process, str]:
        """service.php, and where it listens."""
        process = await asyncio.create_subprocess_exec(
            *start, *php_command("service.php"), json.dumps(config), stdout=asyncio.subprocess.PIPE, **options
        )

        async def stop():
            if process.returncode is None:
                process.kill()
            await process.wait()

        self.addAsyncCleanup(stop)
        line = (await asyncio.wait_for(process.stdout.readline(), PATIENCE)).decode()
        found = re.match(r"listens on (\S+) as \d+\n", line)
        self.assertTrue(found, line)
        return process, found[1]

    async def ended(self, process: asyncio.subprocess.Process, within: float = PATIENCE) -> str:
        said = await asyncio.wait_for(process.stdout.read(), within)
        self.assertEqual(await process.wait(), 0)
        return said.decode()

    async def test_units_of_systemd(self):
        service, units = unit("lifeline.service"), unit("lifeline.socket")
        self.assertEqual(set(service.sections()), {"Unit", "Service", "Install"})
        self.assertEqual(service["Service"]["Type"], "notify")
        self.assertEqual(service["Unit"]["Requires"], "lifeline.socket")
        if verify := shutil.which("systemd-analyze"):
            files = [RECIPES / "lifeline.service", RECIPES / "lifeline.socket"]
            said = subprocess.run([verify, "verify", "--man=no", *files], check=True, capture_output=True, text=True).stderr
            # It ends well with what it ignores; and it has a word on units of the machine.
            self.assertNotIn(str(RECIPES), said)
        # What the two say, done by hand: the socket is opened, the service gets it under its name, tells that it is
        # ready and lives, and ends by the signal.
        name = units["Socket"]["FileDescriptorName"]
        listening = socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True, backlog=int(units["Socket"]["Backlog"]))
        self.addCleanup(listening.close)
        port = listening.getsockname()[1]
        self.assertEqual(units["Socket"]["ListenStream"], "8080")
        manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.addCleanup(manager.close)
        manager.bind(str(self.folder / "notify"))
        manager.setblocking(False)
        async def receive() -> str:
            return (await asyncio.wait_for(asyncio.get_running_loop().sock_recv(manager, 4096), PATIENCE)).decode()

        for address in (f"ws://0.0.0.0:{port}", f"systemd:{name}"):
            process, url = await self.service(
                {"listen": address}, sys.executable, str(HERE / "activate.py"), f"{name}={listening.fileno()}", "--",
                pass_fds=[listening.fileno()],
                env={**os.environ, "NOTIFY_SOCKET": str(self.folder / "notify"), "WATCHDOG_USEC": str(int(service["Service"]["WatchdogSec"]) * 1_000_000)},
            )
            self.assertEqual(url, f"ws://[::]:{port}")
            self.assertTrue((await receive()).startswith("READY=1\n"))
            async with connect(f"ws://127.0.0.1:{port}", ping_interval=None) as peer:
                await peer.send("hello")
                self.assertEqual(await asyncio.wait_for(peer.recv(), PATIENCE), f"hello from {process.pid}")
                self.assertEqual(await receive(), "WATCHDOG=1")
                process.send_signal(signal.Signals[service["Service"]["KillSignal"]])
                await asyncio.wait_for(peer.wait_closed(), PATIENCE)
                self.assertEqual(peer.close_code, 1001)
            self.assertIn("drained", await self.ended(process))
            while not (await receive()).startswith("STOPPING=1\n"):
                pass

    async def node(self, port: int) -> tuple[asyncio.subprocess.Process, Path]:
        """An instance of a deploy; what it has handled is in the file."""
        log = self.folder / f"handled.{port}.{len(list(self.folder.iterdir()))}"
        config = {"listen": f"ws://127.0.0.1:{port}", "drain": 3, "log": str(log), "options": {"trustedProxies": ["127.0.0.1"]}}
        process, _ = await self.service(config)
        return process, log

    async def test_a_rolling_deploy_behind_nginx(self):
        front, *ports = [await free_port() for _ in range(3)]
        recipe = (RECIPES / "nginx.conf").read_text()
        for ours, port in zip(("8080", "8081", "8082"), (front, *ports), strict=True):
            self.assertIn(f"127.0.0.1:{ours}", recipe)
            recipe = recipe.replace(f"127.0.0.1:{ours}", f"127.0.0.1:{port}")
        (self.folder / "lifeline.conf").write_text(recipe)
        user = "user root;" if os.getuid() == 0 else ""
        temporary = " ".join(f"{kind}_temp_path {self.folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
        (self.folder / "nginx.conf").write_text(
            f"daemon off; {user} worker_processes 1; pid {self.folder}/nginx.pid; error_log stderr;\n"
            f"events {{ worker_connections 256; }}\n"
            f"http {{ access_log off; {temporary} include {self.folder}/lifeline.conf; }}\n"
        )
        nodes = [await self.node(port) for port in ports]
        logs = [log for _, log in nodes]
        await self.start_proxy(front, "/usr/sbin/nginx", "-p", str(self.folder), "-e", "stderr", "-c", str(self.folder / "nginx.conf"))
        crowd = await Peer.start(*php_command("crowd.php"), f"ws://127.0.0.1:{front}/", "10")
        self.addAsyncCleanup(crowd.stop)
        await crowd.expect("going")
        # Each in its turn is asked to end, and another takes its place.
        for at, port in enumerate(ports):
            process, _ = nodes[at]
            process.send_signal(signal.SIGTERM)
            said = await self.ended(process)
            self.assertNotIn("closed 4000", said, "all have left by themselves")
            nodes[at] = await self.node(port)
            logs.append(nodes[at][1])
        # Half of them at least were with each.
        await crowd.expect("opened", count=20)
        crowd.process.stdin.close()
        done = await crowd.expect("done", 60)
        handled: dict[str, set[str]] = {}
        for log in logs:
            turns: dict[str, int] = {}
            for line in log.read_text().splitlines():
                identity, text = line.split(" ")
                handled.setdefault(text, set()).add(identity)
                client, turn = text.split(":")
                self.assertGreater(int(turn), turns.get(client, -1), "in order")
                turns[client] = int(turn)
        self.assertGreater(len(done["sent"]), 500)
        self.assertEqual([text for text in done["sent"] if text not in handled], [], "handled")
        self.assertEqual([text for text in done["sent"] if text not in done["answered"]], [], "answered")
        self.assertEqual((done["errors"], done["unacknowledged"]), ([], 0))
        # There was always one who took them.
        self.assertEqual(done["refused"], [])
        # Another instance does not know their sessions, and says so.
        self.assertEqual(set(done["gaps"]), {" restart"})
        # What one has handled and had no time to acknowledge another may see again, by the same id.
        self.assertEqual([text for text, identities in handled.items() if len(identities) > 1], [])
        self.assertEqual(len(set.union(*handled.values())), len(handled))

    async def test_probes_and_pre_stop_of_kubernetes(self):
        manifest = (RECIPES / "kubernetes.yaml").read_text()
        ready, _, live = re.findall(r"httpGet: \{ path: (\S+), port: admin \}", manifest)
        grace = int(re.search(r"terminationGracePeriodSeconds: (\d+)", manifest)[1])
        hook = json.loads(re.search(r"preStop:.*?command: (\[.*?\])", manifest, re.S)[1])
        drain = int(re.search(r"\$server->stop\((\d+)\) on SIGTERM", manifest)[1])
        self.assertEqual((ready, live), ("/readyz", "/healthz"))
        self.assertGreater(grace, int(hook[1]) + drain)
        admin = await free_port()
        process, url = await self.service({"drain": drain, "options": {"admin": f"127.0.0.1:{admin}"}})

        async def probe(path: str) -> int | None:
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", admin)
            except OSError:
                return None
            # As the kubelet does: by the pod's address.
            writer.write(f"GET {path} HTTP/1.1\r\nHost: 10.1.2.3:9090\r\nUser-Agent: kube-probe/1.30\r\nConnection: close\r\n\r\n".encode())
            answer = await asyncio.wait_for(reader.read(), PATIENCE)
            writer.close()
            return int(answer.split(b" ")[1])

        self.assertEqual((await probe(ready), await probe(live)), (200, 200))
        async with connect(url, ping_interval=None) as peer, connect(url, ping_interval=None) as stubborn:
            # What keeps the drain from its end: it does not answer the close frame.
            stubborn.transport.pause_reading()
            # preStop, with less patience.
            began = asyncio.get_running_loop().time()
            hooked = await asyncio.create_subprocess_exec(hook[0], "0.2")
            async with connect(url, ping_interval=None) as late:
                await late.send("served on")
                self.assertEqual(await asyncio.wait_for(late.recv(), PATIENCE), f"served on from {process.pid}")
            self.assertEqual((await hooked.wait(), await probe(ready)), (0, 200))
            process.terminate()
            await asyncio.wait_for(peer.wait_closed(), grace)
            self.assertEqual(peer.close_code, 1001)

            async def unready() -> bool:
                return await probe(ready) == 503

            await eventually(unready)
            # Not to be killed for it.
            self.assertEqual(await probe(live), 200)
            stubborn.transport.resume_reading()
            self.assertIn("drained", await self.ended(process, grace))
            self.assertLess(asyncio.get_running_loop().time() - began, grace)
        self.assertIsNone(await probe(live))
