"""The examples of the Composer package, each run as its head says."""

import asyncio
import json
import os
import re
import signal
import tempfile

from support import PATIENCE, ROOT, InteropCase, php_command
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus


class Examples(InteropCase):
    async def example(self, name: str, *arguments: str) -> asyncio.subprocess.Process:
        *php, _ = php_command("")
        process = await asyncio.create_subprocess_exec(
            *php, str(ROOT / "php" / "examples" / name), *arguments,
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, env=dict(os.environ),
        )

        async def stop():
            if process.returncode is None:
                process.terminate()
            await asyncio.wait_for(process.wait(), PATIENCE)

        self.addAsyncCleanup(stop)
        return process

    async def line(self, process: asyncio.subprocess.Process, pattern: str) -> re.Match:
        """The next line of output that matches."""

        async def search():
            async for line in process.stdout:
                if found := re.search(pattern, line.decode()):
                    return found
            raise AssertionError(f"no line like {pattern}")

        return await asyncio.wait_for(search(), PATIENCE)

    async def served(self, name: str) -> tuple[asyncio.subprocess.Process, str]:
        process = await self.example(name, "ws://127.0.0.1:0")
        return process, (await self.line(process, r"(ws://127\.0\.0\.1:[1-9]\d*)"))[1]

    async def test_echo(self):
        _, url = await self.served("echo.php")
        async with connect(url) as peer:
            await peer.send("hello")
            self.assertEqual(await asyncio.wait_for(peer.recv(), PATIENCE), "hello")

    async def test_workers(self):
        process, url = await self.served("workers.php")
        async with connect(f"{url}/?name=ann") as ann, connect(f"{url}/?name=ben") as ben:

            async def hears(peer) -> str:
                return await asyncio.wait_for(peer.recv(), PATIENCE)

            self.assertEqual([await hears(ann), await hears(ben)], ["welcome, ann", "welcome, ben"])
            await ann.send("hi")
            first = re.fullmatch(r"ann \(worker ([1-4])\): hi", await hears(ben))[1]
            await ben.send("hello")
            self.assertEqual(await hears(ann), f"ann (worker {first}): hi")
            second = re.fullmatch(r"ben \(worker ([1-4])\): hello", await hears(ann))[1]
            self.assertNotEqual(first, second)
            # Its first line and this one; then others, which know both.
            await hears(ben)
            os.kill(process.pid, signal.SIGUSR1)
            for number in range(50):
                await ann.send(str(number))
                for peer in (ann, ben):
                    self.assertRegex(await hears(peer), rf"^ann \(worker [1-4]\): {number}$")

    async def test_chat(self):
        process, url = await self.served("chat.php")
        async with connect(f"{url}/lobby?name=ann") as ann, connect(f"{url}/lobby?name=ben") as ben, connect(f"{url}/echo") as echo:
            await ann.send("hi")
            while (said := json.loads(await asyncio.wait_for(ben.recv(), PATIENCE)))["from"] == "*":
                pass
            self.assertEqual(said, {"from": "ann", "text": "hi"})
            await echo.send("back")
            self.assertEqual(await asyncio.wait_for(echo.recv(), PATIENCE), "back")
        await self.line(process, "ben left /lobby")
        process.terminate()
        self.assertEqual(await asyncio.wait_for(process.wait(), PATIENCE), 0)

    async def test_dashboards(self):
        _, url = await self.served("dashboards.php")
        async with connect(f"{url}/connections") as peer:
            for _ in range(3):
                self.assertEqual(json.loads(await asyncio.wait_for(peer.recv(), PATIENCE)), {"open": 1})
        with self.assertRaises(InvalidStatus):
            async with connect(f"{url}/nowhere"):
                pass

    async def test_client(self):
        _, url = await self.served("chat.php")
        client = await self.example("client.php", f"{url}/echo")
        client.stdin.write(b"typed\n")
        await self.line(client, "< typed")
        client.stdin.close()
        await self.line(client, "-> Closed")
        self.assertEqual(await asyncio.wait_for(client.wait(), PATIENCE), 0)

    async def test_orders(self):
        server, url = await self.served("orders.php")
        with tempfile.TemporaryDirectory() as directory:
            for orders, expected in (
                (["tea", "coffee", "cake"], ["! coffee: there is tea only", "< cake is order 2", "< tea is order 1"]),
                # The session is in the directory, too.
                (["milk"], ["< milk is order 3"]),
            ):
                client = await self.example("order.php", url, directory, *orders)
                said, _ = await asyncio.wait_for(client.communicate(), PATIENCE)
                *answers, last = said.decode().splitlines()
                self.assertEqual((sorted(answers), last), (expected, "all is handled"))
        await self.line(server, r"ann orders milk \(.+:4\)")
