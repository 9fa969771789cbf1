"""WsClient and Python's `websockets` as its server."""

import asyncio
import base64
import http

from support import PATIENCE, InteropCase, free_port
from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed


async def echo(peer):
    async for message in peer:
        await peer.send(message)


class ClientWithPythonServer(InteropCase):
    async def listen(self, handler=echo, port=0, **options):
        server = await serve(handler, "127.0.0.1", port, **options)
        self.addCleanup(server.close)
        return server, f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"

    async def test_echo_of_text_binary_and_edges(self):
        _, url = await self.listen(max_size=None)
        client = await self.client(url)
        await client.expect("open")
        for text in ["hello", "", "zażółć gęślą jaźń 🦊", "x" * 125, "x" * 126, "x" * 65536, "x" * 1_000_000]:
            await client.tell("send", data=text)
            await client.expect("message", data=text)
        for data in [b"", b"\x00\xff\x80", bytes(range(256)) * 512]:
            await client.tell("send", hex=data.hex())
            await client.expect("message", hex=data.hex())

    async def test_fragmented_message_with_a_ping_between(self):
        async def handler(peer):
            async def fragments():
                yield "one "
                await asyncio.wait_for(await peer.ping(b"between"), PATIENCE)
                yield "two"

            await peer.send(fragments())
            await peer.wait_closed()

        _, url = await self.listen(handler)
        client = await self.client(url)
        await client.expect("message", data="one two")

    async def test_close_by_the_client(self):
        closed = asyncio.get_running_loop().create_future()

        async def handler(peer):
            await peer.wait_closed()
            closed.set_result((peer.close_code, peer.close_reason))

        _, url = await self.listen(handler)
        client = await self.client(url)
        await client.expect("open")
        await client.tell("close", code=4321, reason="gone fishing 🎣")
        self.assertEqual(await asyncio.wait_for(closed, PATIENCE), (4321, "gone fishing 🎣"))
        await client.expect("state", to="closed")
        await client.expect("end")

    async def test_close_by_the_server_reconnects(self):
        visits = 0

        async def handler(peer):
            nonlocal visits
            visits += 1
            if visits < 3:
                await peer.close(4100, "again")
            await peer.wait_closed()

        _, url = await self.listen(handler)
        client = await self.client(url, {"reconnect": {"base": 0.05, "max": 0.1}})
        for _ in range(2):
            await client.expect("open")
            event = await client.expect("close")
            self.assertEqual((event["code"], event["reason"], event["clean"]), (4100, "again", True))
        await client.expect("open")
        self.assertEqual(visits, 3)

    async def test_a_terminal_code_ends_it(self):
        async def handler(peer):
            await peer.close(1002)

        _, url = await self.listen(handler)
        client = await self.client(url)
        await client.expect("close", code=1002)
        await client.expect("end")
        self.assertEqual(client.seen("error")[0]["class"], "WsConnectException")

    async def test_refused_for_good(self):
        def refuse(connection, request):
            return connection.respond(http.HTTPStatus.FORBIDDEN, "no\n")

        _, url = await self.listen(process_request=refuse)
        client = await self.client(url)
        await client.expect("end")
        self.assertIn("403", client.seen("error")[0]["message"])

    async def test_retry_after_is_honoured(self):
        times = []

        def refuse(connection, request):
            times.append(asyncio.get_running_loop().time())
            if len(times) == 1:
                response = connection.respond(http.HTTPStatus.SERVICE_UNAVAILABLE, "later\n")
                response.headers["Retry-After"] = "1"
                return response
            return None

        _, url = await self.listen(process_request=refuse)
        client = await self.client(url, {"reconnect": {"base": 0.05, "max": 0.1}})
        await client.expect("open")
        self.assertGreaterEqual(times[1] - times[0], 0.9)

    async def test_headers_credentials_path_and_subprotocol(self):
        seen = {}

        async def handler(peer):
            seen.update(path=peer.request.path, headers=peer.request.headers, protocol=peer.subprotocol)
            await peer.send("seen")
            await peer.wait_closed()

        _, url = await self.listen(handler, subprotocols=["v1.chat"])
        address = url.replace("ws://", "ws://me:se%20cret@") + "/room/7?tag=a%20b"
        client = await self.client(address, {"connect": {"headers": {"X-Token": "t0k3n"}}, "protocols": ["v2.chat", "v1.chat"]})
        await client.expect("message", data="seen")
        self.assertEqual(seen["path"], "/room/7?tag=a%20b")
        self.assertEqual(seen["headers"]["X-Token"], "t0k3n")
        self.assertEqual(seen["headers"]["Authorization"], "Basic " + base64.b64encode(b"me:se cret").decode())
        self.assertEqual(seen["protocol"], "v1.chat")

    async def test_sent_while_away_arrives_in_order(self):
        port = await free_port()
        client = await self.client(f"ws://127.0.0.1:{port}", {"reconnect": {"base": 0.05, "max": 0.2}})
        await client.expect("state", to="reconnecting")
        for number in range(50):
            await client.tell("send", data=f"{number}")
        await client.expect("sent", sequence=50)
        await self.listen(port=port)
        for number in range(50):
            await client.expect("message", data=f"{number}")

    async def test_server_restarts(self):
        server, url = await self.listen()
        port = server.sockets[0].getsockname()[1]
        client = await self.client(url, {"reconnect": {"base": 0.05, "max": 0.2}})
        await client.expect("open")
        for _ in range(5):
            server.close()
            await server.wait_closed()
            await client.expect("close")
            await client.tell("send", data="still there?")
            await client.expect("sent")
            server, _ = await self.listen(port=port)
            await client.expect("open")
            await client.expect("message", data="still there?")

    async def test_heartbeats_find_a_frozen_server(self):
        async def handler(peer):
            peer.transport.pause_reading()
            await asyncio.sleep(PATIENCE)

        _, url = await self.listen(handler, ping_interval=None)
        client = await self.client(url, {"heartbeat": {"interval": 0.3, "timeout": 0.3}})
        event = await client.expect("close")
        self.assertEqual((event["code"], event["clean"]), (4001, False))

    async def test_blocked_php_still_answers_the_servers_pings(self):
        lost = []

        async def handler(peer):
            try:
                async for message in peer:
                    await peer.send(message)
            except ConnectionClosed as e:
                lost.append(e)

        _, url = await self.listen(handler, ping_interval=0.3, ping_timeout=1)
        client = await self.client(url)
        await client.expect("open")
        await client.tell("block", seconds=4)
        await client.expect("awake")
        await client.tell("send", data="still here")
        await client.expect("message", data="still here")
        self.assertEqual(lost, [])
        self.assertEqual(client.seen("close"), [])

    async def test_failover_to_the_second_url(self):
        _, url = await self.listen()
        client = await self.client([f"ws://127.0.0.1:{await free_port()}", url], {"reconnect": {"base": 0.05, "max": 0.2}})
        await client.expect("open")
