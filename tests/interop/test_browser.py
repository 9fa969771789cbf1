"""WsServer and headless Chromium."""

import asyncio
import json
import shutil
import unittest
from urllib.parse import quote

from support import HERE, PATIENCE, InteropCase

FLAGS = [
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-dev-shm-usage",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-extensions",
]


@unittest.skipUnless(shutil.which("chromium"), "no chromium")
class Browser(InteropCase):
    async def visit(self, ws_url: str) -> dict:
        """Opens the page in a browser of its own and waits for what it saw."""
        result = asyncio.get_running_loop().create_future()

        async def handle(reader, writer):
            try:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
            except asyncio.IncompleteReadError:
                # A browser opens connections ahead of need.
                writer.close()
                return
            length = next((int(line.split(":")[1]) for line in head.split("\r\n") if line.lower().startswith("content-length")), 0)
            body = await reader.readexactly(length)
            answer = (HERE / "browser.html").read_bytes() if head.startswith("GET /page") else b""
            writer.write(
                b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(answer) + answer
            )
            await writer.drain()
            writer.close()
            if head.startswith("POST /result") and not result.done():
                result.set_result(json.loads(body))

        pages = await asyncio.start_server(handle, "127.0.0.1", 0)
        self.addCleanup(pages.close)
        self.origin = f"http://127.0.0.1:{pages.sockets[0].getsockname()[1]}"
        log = (self.folder / "chromium.log").open("w")
        self.addCleanup(log.close)
        browser = await asyncio.create_subprocess_exec(
            "chromium", *FLAGS, f"--user-data-dir={self.folder}/profile", f"{self.origin}/page?server={quote(ws_url)}",
            stdout=log, stderr=log,
        )
        try:
            return await asyncio.wait_for(result, 3 * PATIENCE)
        except TimeoutError:
            raise AssertionError("nothing from the browser:\n" + (self.folder / "chromium.log").read_text()[-3000:]) from None
        finally:
            browser.terminate()
            try:
                await asyncio.wait_for(browser.wait(), 10)
            except TimeoutError:
                browser.kill()
                await browser.wait()

    async def test_conversation(self):
        server, url = await self.server({"protocols": ["v1.chat"], "heartbeat": {"interval": 0.3, "timeout": 3}, "origins": "any"})
        seen = await self.visit(url)
        self.assertEqual((seen["protocol"], seen["extensions"], seen["echoed"]), ("v1.chat", "", 6))
        self.assertGreater(seen["rtt"], 0)
        self.assertEqual((seen["code"], seen["reason"], seen["wasClean"]), (4010, "enough", True))
        self.assertEqual((await server.expect("open"))["origin"], self.origin)
        event = await server.expect("close")
        self.assertEqual((event["code"], event["clean"]), (4010, True))

    async def test_conversation_compressed(self):
        for takeover in (False, True):
            options = {"protocols": ["v1.chat"], "origins": "any", "compression": {"contextTakeover": takeover}}
            server, url = await self.server({**options, "heartbeat": {"interval": 0.3, "timeout": 3}})
            seen = await self.visit(url)
            self.assertEqual((seen["protocol"], seen["echoed"]), ("v1.chat", 6))
            # Chromium names the parameters, too.
            self.assertTrue(seen["extensions"].startswith("permessage-deflate"), seen)
            self.assertEqual("server_no_context_takeover" in seen["extensions"], not takeover, seen)
            self.assertEqual((seen["code"], seen["reason"], seen["wasClean"]), (4010, "enough", True))
            await server.tell("stats")
            stats = (await server.expect("stats"))["stats"]["compression"]
            self.assertGreaterEqual(stats["messages"]["in"], 2)
            self.assertLess(stats["ratio"]["in"], 0.1)

    async def test_page_of_another_host_is_refused(self):
        server, url = await self.server({"protocols": ["v1.chat"], "origins": ["https://app.example"]})
        seen = await self.visit(url)
        self.assertEqual((seen["code"], seen.get("error")), (1006, True))
        self.assertEqual(server.seen("open"), [])
