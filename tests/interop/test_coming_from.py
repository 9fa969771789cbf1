"""Each "after" of docs/coming-from.md, run as it stands there but for the address."""

import asyncio
import json
import os
import re

from support import PATIENCE, ROOT, InteropCase, eventually, free_port, php_command
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

GUIDE = (ROOT / "docs" / "coming-from.md").read_text()
AFTER = dict(re.findall(r"<!-- after: (\w+) -->\n```php\n(.*?)```", GUIDE, re.S))


class ComingFrom(InteropCase):
    async def served(self, name: str) -> str:
        port = await free_port()
        code, count = re.subn(r"ws://0\.0\.0\.0:\d+", f"ws://127.0.0.1:{port}", AFTER[name])
        self.assertEqual(count, 1)
        script = self.folder / f"{name}.php"
        # As Composer's autoloader.
        script.write_text(f"<?php\n{code}")
        autoload = self.folder / "autoload.php"
        autoload.write_text(f"<?php spl_autoload_register(fn ($class) => is_file($file = '{ROOT}/php/src/' . strtr(substr($class, 9), '\\\\', '/') . '.php') && require $file);")
        *php, _ = php_command("")
        process = await asyncio.create_subprocess_exec(*php, "-d", f"auto_prepend_file={autoload}", str(script), env=dict(os.environ))

        async def stop():
            if process.returncode is None:
                process.kill()
            await process.wait()

        self.addAsyncCleanup(stop)

        async def listens() -> bool:
            self.assertIsNone(process.returncode)
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                return False
            writer.close()
            return True

        await eventually(listens)
        return f"ws://127.0.0.1:{port}"

    async def says(self, peer, text: str) -> None:
        self.assertEqual(await asyncio.wait_for(peer.recv(), PATIENCE), text)

    async def chat_by_name(self, name: str) -> None:
        url = await self.served(name)
        async with connect(f"{url}/?name=ann") as ann, connect(f"{url}/") as guest:
            await ann.send("hi")
            await self.says(ann, "ann: hi")
            await self.says(guest, "ann: hi")
            await guest.send("hello")
            await self.says(ann, "guest: hello")

    async def test_from_swoole(self):
        await self.chat_by_name("swoole")

    async def test_from_workerman(self):
        await self.chat_by_name("workerman")

    async def test_from_gatewayworker(self):
        url = await self.served("gatewayworker")
        async with connect(f"{url}/?uid=ann") as ann, connect(f"{url}/?uid=ben") as ben:
            async with connect(f"{url}/?uid=cem&room=other") as cem:
                await ann.send(json.dumps({"text": "to the lobby"}))
                await self.says(ann, "ann: to the lobby")
                await self.says(ben, "ann: to the lobby")
                await ann.send(json.dumps({"to": "cem", "text": "psst"}))
                await self.says(cem, "ann: psst")
            left = await asyncio.wait_for(ben.recv(), PATIENCE)
            self.assertRegex(left, r"^\d+ has left$")
            await self.says(ann, left)
            await ann.send(json.dumps({"to": "cem", "text": "psst"}))
            await self.says(ann, "cem is away")

    async def test_from_ratchet(self):
        url = await self.served("ratchet")
        async with connect(f"{url}/chat", origin="https://elsewhere.example") as ann, connect(f"{url}/chat") as ben:
            await ann.send("hi")
            await self.says(ben, "hi")
            await ben.send("hello")
            # Not what she said herself.
            await self.says(ann, "hello")
        with self.assertRaises(InvalidStatus):
            async with connect(f"{url}/nowhere"):
                pass

    def test_every_name_of_the_facade_is_told(self):
        source = (ROOT / "php" / "src" / "Gateway.php").read_text()
        names = set(re.findall(r"public static function (\w+)", source))
        self.assertGreater(len(names), 30)
        self.assertEqual([name for name in sorted(names) if f"`{name}`" not in GUIDE and f"Gateway::{name}(" not in GUIDE], [])
