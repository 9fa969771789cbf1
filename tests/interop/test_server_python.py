"""WsServer and Python's `websockets` as its client."""

import asyncio
import json

from support import PATIENCE, InteropCase, eventually
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus


class ServerWithPythonClient(InteropCase):
    async def test_echo_of_text_binary_and_edges(self):
        _, url = await self.server()
        async with connect(url) as peer:
            for message in ["hello", "", "zażółć gęślą jaźń 🦊", b"\x00\xff\x80", b"", "x" * 125, "x" * 126, "x" * 65535, "x" * 65536]:
                await peer.send(message)
                self.assertEqual(await asyncio.wait_for(peer.recv(), PATIENCE), message)

    async def test_fragmented_message_with_a_ping_between(self):
        _, url = await self.server()

        async def fragments():
            yield "one "
            await (await peer.ping())
            yield "two "
            yield ""
            yield "three"

        async with connect(url) as peer:
            await peer.send(fragments())
            self.assertEqual(await asyncio.wait_for(peer.recv(), PATIENCE), "one two three")

    async def test_large_message_needs_a_larger_limit(self):
        _, url = await self.server({"limits": {"maxMessage": 8 << 20, "maxFrame": 8 << 20, "inbound": 16 << 20}, "send": {"limit": 32 << 20}})
        async with connect(url, max_size=None) as peer:
            message = bytes(range(256)) * (4 << 12)
            await peer.send(message)
            self.assertEqual(await asyncio.wait_for(peer.recv(), PATIENCE), message)

        _, url = await self.server({"limits": {"maxMessage": 1000, "maxFrame": 1000}})
        async with connect(url) as peer:
            await peer.send("x" * 1000)
            self.assertEqual(len(await asyncio.wait_for(peer.recv(), PATIENCE)), 1000)
            await peer.send("x" * 1001)
            with self.assertRaises(ConnectionClosed) as closed:
                await asyncio.wait_for(peer.recv(), PATIENCE)
            self.assertEqual(closed.exception.rcvd.code, 1009)

    async def test_ping_is_answered_with_its_payload(self):
        _, url = await self.server()
        async with connect(url) as peer:
            latency = await asyncio.wait_for(await peer.ping(b"any payload"), PATIENCE)
            self.assertGreater(latency, 0)

    async def test_close_codes_and_reasons_both_ways(self):
        server, url = await self.server()
        async with connect(url) as peer:
            await peer.close(4321, "gone fishing 🎣")
        event = await server.expect("close")
        self.assertEqual((event["code"], event["reason"], event["clean"]), (4321, "gone fishing 🎣", True))

        async with connect(url) as peer:
            await peer.send("close 4010 enough")
            with self.assertRaises(ConnectionClosed) as closed:
                await asyncio.wait_for(peer.recv(), PATIENCE)
            self.assertEqual((closed.exception.rcvd.code, closed.exception.rcvd.reason), (4010, "enough"))
        event = await server.expect("close")
        self.assertEqual((event["code"], event["clean"]), (4010, True))

    async def test_close_without_a_code(self):
        server, url = await self.server()
        async with connect(url) as peer:
            peer.transport.write(b"\x88\x80\x00\x00\x00\x00")
            event = await server.expect("close")
            self.assertEqual((event["code"], event["clean"]), (1005, True))

    async def test_lost_without_a_close(self):
        server, url = await self.server()
        async with connect(url) as peer:
            peer.transport.abort()
            event = await server.expect("close")
            self.assertEqual((event["code"], event["clean"]), (1006, False))

    async def test_subprotocol_is_the_servers_preference(self):
        server, url = await self.server({"protocols": ["v2.chat", "v1.chat"]})
        async with connect(url, subprotocols=["v1.chat", "v2.chat"]) as peer:
            self.assertEqual(peer.subprotocol, "v2.chat")
            self.assertEqual((await server.expect("open"))["protocol"], "v2.chat")
        async with connect(url) as peer:
            self.assertIsNone(peer.subprotocol)

    async def test_refusals(self):
        async def refusal(options, **config):
            _, url = await self.server(options, **config)
            with self.assertRaises(InvalidStatus) as refused:
                async with connect(url + "/elsewhere", origin="http://evil.example"):
                    pass
            return refused.exception.response

        self.assertEqual((await refusal({"origins": "same-host"})).status_code, 403)
        self.assertEqual((await refusal({"origins": ["http://good.example"]})).status_code, 403)
        self.assertEqual((await refusal({"origins": "any", "path": "/chat"})).status_code, 404)
        self.assertEqual((await refusal({"origins": "any"}, handshake=False)).status_code, 403)
        self.assertEqual((await refusal({"origins": "any"}, handshake=429)).status_code, 429)
        answer = {"status": 401, "headers": {"WWW-Authenticate": "Bearer"}, "body": "who are you?"}
        response = await refusal({"origins": "any"}, handshake=answer)
        self.assertEqual((response.status_code, response.headers["WWW-Authenticate"], response.body), (401, "Bearer", b"who are you?"))

    async def test_origin_that_is_allowed(self):
        server, url = await self.server({"origins": ["http://good.example"]})
        async with connect(url, origin="http://good.example"):
            self.assertEqual((await server.expect("open"))["origin"], "http://good.example")

    async def test_broadcast_and_channels(self):
        server, url = await self.server()
        peers = [await connect(url) for _ in range(20)]
        for peer in peers[:7]:
            await peer.send("join news")
            await peer.send("joined")
            await asyncio.wait_for(peer.recv(), PATIENCE)
        await server.tell("broadcast", data="to all")
        self.assertEqual((await server.expect("sent"))["count"], 20)
        for peer in peers:
            self.assertEqual(await asyncio.wait_for(peer.recv(), PATIENCE), "to all")
        await server.tell("publish", channel="news", data="to some")
        self.assertEqual((await server.expect("sent"))["count"], 7)
        for peer in peers[:7]:
            self.assertEqual(await asyncio.wait_for(peer.recv(), PATIENCE), "to some")
        for peer in peers:
            await peer.close()

    async def test_two_hundred_peers_at_once(self):
        _, url = await self.server()

        async def visit(number):
            async with connect(url, open_timeout=PATIENCE) as peer:
                for turn in range(5):
                    await peer.send(f"{number}:{turn}")
                    self.assertEqual(await asyncio.wait_for(peer.recv(), PATIENCE), f"{number}:{turn}")

        await asyncio.gather(*(visit(number) for number in range(200)))

    async def test_heartbeats_reach_the_peer_and_measure(self):
        server, url = await self.server({"heartbeat": {"interval": 0.2, "timeout": 5}})
        async with connect(url, ping_interval=None) as peer:

            async def measured():
                await peer.send("rtt")
                return json.loads(await asyncio.wait_for(peer.recv(), PATIENCE))

            rtt = await eventually(measured, every=0.5)
            self.assertGreater(rtt, 0)
            self.assertEqual(server.seen("close"), [])

    async def test_a_peer_that_stops_answering_is_dropped(self):
        server, url = await self.server({"heartbeat": {"interval": 0.3, "timeout": 0.3}})
        async with connect(url, ping_interval=None) as peer:
            await server.expect("open")
            # Nothing is read any more: pings stay unanswered.
            peer.transport.pause_reading()
            event = await server.expect("close")
            self.assertEqual((event["code"], event["clean"]), (4001, False))

    async def test_blocked_php_still_answers_pings_and_beats(self):
        server, url = await self.server({"heartbeat": {"interval": 0.5, "timeout": 1}})
        # This peer drops a server that does not answer its pings within a second.
        async with connect(url, ping_interval=0.3, ping_timeout=1) as idle, connect(url, ping_interval=None) as busy:
            await busy.send("block 4")
            self.assertEqual(await asyncio.wait_for(busy.recv(), PATIENCE), "awake")
            await idle.send("alive")
            self.assertEqual(await asyncio.wait_for(idle.recv(), PATIENCE), "alive")
        self.assertEqual([e for e in server.seen("close") if e["code"] == 4001], [])

    async def test_stop_sends_going_away(self):
        server, url = await self.server()
        async with connect(url) as peer:
            await server.expect("open")
            await server.tell("stop", drain=0.2)
            with self.assertRaises(ConnectionClosed) as closed:
                await asyncio.wait_for(peer.recv(), PATIENCE)
            self.assertEqual(closed.exception.rcvd.code, 1001)
        await server.expect("end")

    async def test_what_is_no_upgrade_gets_an_answer(self):
        _, url = await self.server({"healthPath": "/health", "path": "/chat"})
        port = int(url.rsplit(":", 1)[1])

        async def request(text):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(text.encode())
            status = (await asyncio.wait_for(reader.readline(), PATIENCE)).split()[1]
            writer.close()
            return int(status)

        host = f"Host: 127.0.0.1:{port}\r\n\r\n"
        self.assertEqual(await request(f"GET /health HTTP/1.1\r\n{host}"), 200)
        self.assertEqual(await request(f"GET /chat HTTP/1.1\r\n{host}"), 426)
        self.assertEqual(await request(f"GET /other HTTP/1.1\r\n{host}"), 404)
        self.assertEqual(await request(f"POST /chat HTTP/1.1\r\nContent-Length: 0\r\n{host}"), 405)
        self.assertEqual(await request("nonsense\r\n\r\n"), 400)
