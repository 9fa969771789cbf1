"""permessage-deflate both ways with peers of other makes."""

import asyncio
import json

from support import HERE, PATIENCE, InteropCase
from websockets.asyncio.client import connect
from websockets.asyncio.server import serve
from websockets.exceptions import InvalidStatus
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory, ServerPerMessageDeflateFactory

MESSAGES = [
    "short", "", "zażółć gęślą jaźń 🦊 " * 200, b"\x00\xff\x80" * 1000, "x" * 65536,
    json.dumps([{"id": n * 7919 % 10007, "name": f"user {n}"} for n in range(20000)]), "again " * 500, "again " * 500,
]
BIG = {"limits": {"maxMessage": 4 << 20, "maxFrame": 4 << 20, "inbound": 8 << 20}, "send": {"limit": 16 << 20}}
# Ours (contextTakeover, windowBits), then the peer's: server and client without takeover, server's and client's bits.
KINDS = [
    ({}, (False, False, None, True)),
    ({"contextTakeover": True}, (False, False, None, True)),
    ({"contextTakeover": True, "level": 9}, (True, False, 9, 9)),
    ({"contextTakeover": True, "windowBits": 10}, (False, True, 12, True)),
    ({"windowBits": 9, "threshold": 0}, (False, False, None, 12)),
]


class Deflate(InteropCase):
    async def test_server_with_python_client(self):
        for compression, (bare_server, bare_client, server_bits, client_bits) in KINDS:
            with self.subTest(compression=compression):
                _, url = await self.server({**BIG, "compression": compression or True})
                factory = ClientPerMessageDeflateFactory(
                    server_no_context_takeover=bare_server, client_no_context_takeover=bare_client,
                    server_max_window_bits=server_bits, client_max_window_bits=client_bits,
                )
                async with connect(url, compression=None, extensions=[factory], max_size=None) as peer:
                    self.assertIn("permessage-deflate", peer.response.headers["Sec-WebSocket-Extensions"])
                    for message in MESSAGES:
                        await peer.send(message)
                        self.assertEqual(await asyncio.wait_for(peer.recv(), PATIENCE), message)
                    await peer.send("stats")
                    stats = json.loads(await asyncio.wait_for(peer.recv(), PATIENCE))["compression"]
                    self.assertEqual(stats["agreed"], peer.response.headers["Sec-WebSocket-Extensions"])
                    self.assertEqual(stats["messages"]["in"], len(MESSAGES) + 1)
                    self.assertLess(stats["ratio"]["out"], 0.5)
                    self.assertLess(stats["ratio"]["in"], 0.5)

    async def test_server_declines_what_it_cannot_do(self):
        _, url = await self.server({"compression": True})
        factory = ClientPerMessageDeflateFactory(server_max_window_bits=8)
        async with connect(url, compression=None, extensions=[factory]) as peer:
            self.assertNotIn("Sec-WebSocket-Extensions", peer.response.headers)
            await peer.send("x" * 5000)
            self.assertEqual(len(await asyncio.wait_for(peer.recv(), PATIENCE)), 5000)
        with self.assertRaises(InvalidStatus) as refused:
            async with connect(url, compression=None, additional_headers={"Sec-WebSocket-Extensions": "a;"}):
                pass
        self.assertEqual(refused.exception.response.status_code, 400)

    async def test_the_application_declines(self):
        _, url = await self.server({"compression": True}, handshake={"compression": False})
        async with connect(url) as peer:
            self.assertNotIn("Sec-WebSocket-Extensions", peer.response.headers)

    async def test_broadcast_to_a_mixed_crowd(self):
        server, url = await self.server({"compression": {"contextTakeover": True}})
        factories = [None] + [
            ClientPerMessageDeflateFactory(server_no_context_takeover=bare, server_max_window_bits=bits)
            for bare in (True, False) for bits in (None, 9, 12, 15)
        ]
        peers = [await connect(url, compression=None, extensions=[one] if one else None) for one in factories]
        for peer in peers:
            # Then the server knows of it.
            await peer.send("here")
            self.assertEqual(await asyncio.wait_for(peer.recv(), PATIENCE), "here")
        for data in ["news " * 1000, "other news " * 1000, "short", "news " * 1000]:
            await server.tell("broadcast", data=data)
            self.assertEqual((await server.expect("sent"))["count"], len(peers))
            for peer in peers:
                self.assertEqual(await asyncio.wait_for(peer.recv(), PATIENCE), data)
        for peer in peers:
            await peer.close()

    async def test_client_with_python_server(self):
        async def echo(peer):
            async for message in peer:
                await peer.send(message)

        for compression, (bare_server, bare_client, server_bits, client_bits) in KINDS:
            with self.subTest(compression=compression):
                factory = ServerPerMessageDeflateFactory(
                    server_no_context_takeover=bare_server, client_no_context_takeover=bare_client,
                    server_max_window_bits=server_bits, client_max_window_bits=None if client_bits is True else client_bits,
                )
                async with serve(echo, "127.0.0.1", 0, compression=None, extensions=[factory], max_size=None) as listening:
                    url = f"ws://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
                    client = await self.client(url, {"limits": BIG["limits"], "compression": compression or True})
                    await client.expect("open")
                    for message in MESSAGES:
                        if isinstance(message, str):
                            await client.tell("send", data=message)
                            await client.expect("message", data=message)
                        else:
                            await client.tell("send", hex=message.hex())
                            await client.expect("message", hex=message.hex())
                    await client.tell("stats")
                    stats = (await client.expect("stats"))["stats"]["compression"]
                    self.assertTrue(stats["agreed"].startswith("permessage-deflate"), stats)
                    self.assertGreaterEqual(stats["messages"]["out"], 5)
                    self.assertLess(stats["ratio"]["out"], 0.5)

    async def test_client_fails_on_an_answer_that_was_not_asked_for(self):
        def meddle(connection, request, response):
            response.headers["Sec-WebSocket-Extensions"] = "permessage-deflate; server_max_window_bits=9; made_up"

        async with serve(lambda peer: peer.wait_closed(), "127.0.0.1", 0, compression=None, process_response=meddle) as listening:
            url = f"ws://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
            client = await self.client(url, {"compression": {"contextTakeover": True}, "reconnect": {"maxAttempts": 1}})
            event = await client.expect("error")
            self.assertIn("unknown parameter \"made_up\"", event["message"])

    async def test_server_with_ws_client(self):
        for compression in (True, {"contextTakeover": True}, {"contextTakeover": True, "windowBits": 9, "threshold": 0}):
            server, url = await self.server({"compression": compression})
            node = await self.peer("node", str(HERE / "ws_client.js"), url)
            seen = await node.expect("done")
            self.assertEqual(seen["fragmented"], "fragmented")
            self.assertEqual(seen["echoed"], seen["expected"])
            self.assertEqual(seen["extensions"], "permessage-deflate")
            self.assertEqual((seen["code"], seen["reason"]), (4010, "enough"))
            await server.tell("stats")
            stats = (await server.expect("stats"))["stats"]["compression"]
            self.assertGreaterEqual(stats["messages"]["in"], 2)
            self.assertLess(stats["ratio"]["out"], 0.1)

    async def test_client_with_ws_server(self):
        for compression in (True, {"contextTakeover": True}, {"contextTakeover": True, "windowBits": 9, "threshold": 0}):
            node = await self.peer("node", str(HERE / "ws_server.js"), "deflate")
            client = await self.client((await node.expect("ready"))["address"], {"compression": compression, "protocols": []})
            await client.expect("open")
            for text in ["hello", "", "zażółć 🦊" * 1000, "x" * 70000, "zażółć 🦊" * 1000]:
                await client.tell("send", data=text)
                await client.expect("message", data=text)
            await client.tell("stats")
            stats = (await client.expect("stats"))["stats"]["compression"]
            self.assertTrue(stats["agreed"].startswith("permessage-deflate"), stats)
            self.assertLess(stats["ratio"]["in"], 0.1)
            await client.tell("close")

    async def test_our_client_with_our_server_and_sessions(self):
        for protocols in ([], ["lifeline.v1"]):
            _, url = await self.server({"compression": {"contextTakeover": True}})
            client = await self.client(url, {"compression": {"contextTakeover": True}, "protocols": protocols})
            await client.expect("open")
            for text in ["hello", "zażółć 🦊" * 1000, "x" * 70000, "zażółć 🦊" * 1000]:
                await client.tell("send", data=text)
                await client.expect("message", data=text)
            await client.tell("stats")
            stats = (await client.expect("stats"))["stats"]["compression"]
            self.assertEqual((stats["messages"]["in"], stats["messages"]["out"]), (3, 3))
            self.assertEqual(stats["agreed"], "permessage-deflate")
