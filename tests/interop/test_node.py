"""Both ways with Node's `ws`."""

from support import HERE, InteropCase


class WithNode(InteropCase):
    async def test_server_with_ws_client(self):
        server, url = await self.server({"protocols": ["v1.chat"]})
        node = await self.peer("node", str(HERE / "ws_client.js"), url, "v1.chat")
        seen = await node.expect("done")
        self.assertEqual(seen["fragmented"], "fragmented")
        self.assertEqual(seen["echoed"], seen["expected"])
        self.assertEqual((seen["pongs"], seen["protocol"], seen["extensions"]), (1, "v1.chat", ""))
        self.assertEqual((seen["code"], seen["reason"]), (4010, "enough"))
        event = await server.expect("close")
        self.assertEqual((event["code"], event["clean"]), (4010, True))

    async def test_client_with_ws_server(self):
        await self.converse()

    async def test_client_with_ws_server_that_offers_compression(self):
        await self.converse("deflate")

    async def converse(self, *arguments):
        node = await self.peer("node", str(HERE / "ws_server.js"), *arguments)
        client = await self.client((await node.expect("ready"))["address"], {"reconnect": {"base": 0.05, "max": 0.1}})
        await client.expect("open")
        for text in ["hello", "", "zażółć 🦊", "x" * 70000]:
            await client.tell("send", data=text)
            await client.expect("message", data=text)
        await client.tell("send", hex="00ff80")
        await client.expect("message", hex="00ff80")
        await client.tell("send", data="ping")
        await client.expect("message", data="pong probe")
        await client.tell("send", data="close")
        event = await client.expect("close")
        self.assertEqual((event["code"], event["reason"], event["clean"]), (4010, "enough", True))
        await client.expect("open")
        await client.tell("send", data="terminate")
        event = await client.expect("close")
        self.assertEqual((event["code"], event["clean"]), (1006, False))
        await client.expect("open")
        await client.tell("close", code=4999, reason="done")
        event = await node.expect("close", code=4999)
        self.assertEqual(event["reason"], "done")
        await client.expect("end")
