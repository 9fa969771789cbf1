"""wss:// with certificates of a throw-away authority, and Unix sockets."""

import asyncio
import os
import shutil
import ssl

from support import PATIENCE, Authority, InteropCase, eventually
from websockets.asyncio.client import connect, unix_connect
from websockets.asyncio.server import serve, unix_serve


class Tls(InteropCase):
    async def asyncSetUp(self):
        await super().asyncSetUp()
        self.authority = Authority(self.folder)

    def context(self, certificate=None) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(self.authority.cert))
        if certificate:
            context.load_cert_chain(*map(str, certificate))
        return context

    async def wss(self, tls: dict):
        """A WsServer with TLS and its port."""
        server, url = await self.server({"tls": tls}, listen="wss://127.0.0.1:0")
        return server, int(url.rsplit(":", 1)[1])

    async def echo(self, context: ssl.SSLContext, port: int, name="localhost") -> ssl.SSLObject:
        async with connect(f"wss://{name}:{port}", host="127.0.0.1", port=port, ssl=context, server_hostname=name) as peer:
            await peer.send("over tls")
            self.assertEqual(await asyncio.wait_for(peer.recv(), PATIENCE), "over tls")
            return peer.transport.get_extra_info("ssl_object")

    async def names(self, context, port, name) -> set[str]:
        certificate = (await self.echo(context, port, name)).getpeercert()
        return {value for _, value in certificate["subjectAltName"]}

    async def test_server(self):
        cert, key = self.authority.issue("localhost")
        _, port = await self.wss({"cert": str(cert), "key": str(key)})
        self.assertIn((await self.echo(self.context(), port)).version(), ("TLSv1.2", "TLSv1.3"))
        with self.assertRaises(ssl.SSLCertVerificationError):
            await self.echo(ssl.create_default_context(), port)
        # Plain text on a TLS port ends, and the server goes on.
        with self.assertRaises(Exception):
            async with connect(f"ws://127.0.0.1:{port}", open_timeout=PATIENCE):
                pass
        await self.echo(self.context(), port)

    async def test_server_name_selects_the_certificate(self):
        default, one, any_of = (self.authority.issue(n) for n in ("localhost", "one.example", "*.two.example"))
        sni = {
            "one.example": {"cert": str(one[0]), "key": str(one[1])},
            "*.two.example": {"cert": str(any_of[0]), "key": str(any_of[1])},
        }
        _, port = await self.wss({"cert": str(default[0]), "key": str(default[1]), "sni": sni})
        self.assertEqual(await self.names(self.context(), port, "localhost"), {"localhost"})
        self.assertEqual(await self.names(self.context(), port, "one.example"), {"one.example"})
        self.assertEqual(await self.names(self.context(), port, "a.two.example"), {"*.two.example"})

    async def test_server_asks_for_a_client_certificate(self):
        cert, key = self.authority.issue("localhost")
        _, port = await self.wss({"cert": str(cert), "key": str(key), "clientCa": str(self.authority.cert)})
        await self.echo(self.context(self.authority.issue("somebody", client=True)), port)
        with self.assertRaises((OSError, EOFError, Exception)):
            await self.echo(self.context(), port)
        other = self.folder / "other"
        other.mkdir()
        stranger = Authority(other).issue("stranger", client=True)
        with self.assertRaises((OSError, EOFError, Exception)):
            await self.echo(self.context(stranger), port)
        await self.echo(self.context(self.authority.issue("another", client=True)), port)

    async def test_changed_certificate_is_taken_without_restart(self):
        live = self.folder / "live.pem", self.folder / "live.key"

        def install(certificate):
            for source, target in zip(certificate, live):
                shutil.copy(source, f"{target}.new")
                os.rename(f"{target}.new", target)

        install(self.authority.issue("localhost", file="first"))
        server, port = await self.wss({"cert": str(live[0]), "key": str(live[1])})
        before = (await self.echo(self.context(), port)).getpeercert()["serialNumber"]
        install(self.authority.issue("localhost", file="second"))

        async def changed():
            return (await self.echo(self.context(), port)).getpeercert()["serialNumber"] != before

        await eventually(changed, patience=3 * PATIENCE, every=0.5)
        # A broken file must not take the server down, nor the certificate away.
        live[0].write_text("not a certificate")
        self.assertIn("was not loaded", (await server.expect("log", 3 * PATIENCE, level="error"))["message"])
        self.assertTrue(await changed())
        self.assertEqual(server.seen("end"), [])

    async def far_side(self, client_ca=None):
        """A server of another make, with TLS; its port."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*map(str, self.authority.issue("127.0.0.1", "127.0.0.1", "localhost", file="far")))
        if client_ca:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(str(client_ca))

        async def handler(peer):
            async for message in peer:
                await peer.send(message)

        server = await serve(handler, "127.0.0.1", 0, ssl=context)
        self.addCleanup(server.close)
        return server.sockets[0].getsockname()[1]

    async def through(self, client):
        await client.expect("open")
        await client.tell("send", data="over tls")
        await client.expect("message", data="over tls")

    async def test_client_with_a_ca_of_its_own(self):
        port = await self.far_side()
        ca = {"tls": {"ca": str(self.authority.cert)}}
        await self.through(await self.client(f"wss://127.0.0.1:{port}", ca))
        await self.through(await self.client(f"wss://localhost:{port}", ca))

    async def test_client_refuses_what_it_cannot_verify(self):
        port = await self.far_side()
        few = {"reconnect": {"base": 0.05, "max": 0.1, "maxAttempts": 2}}
        client = await self.client(f"wss://127.0.0.1:{port}", few)
        await client.expect("end")
        self.assertEqual(client.seen("open"), [])
        self.assertIn("certificate", (str(client.seen("error")) + str(client.seen("state"))).lower())
        await self.through(await self.client(f"wss://127.0.0.1:{port}", {"tls": {"verify": False}}))

    async def test_client_shows_a_certificate(self):
        port = await self.far_side(client_ca=self.authority.cert)
        cert, key = self.authority.issue("somebody", client=True)
        tls = {"ca": str(self.authority.cert), "cert": str(cert), "key": str(key)}
        await self.through(await self.client(f"wss://127.0.0.1:{port}", {"tls": tls}))
        few = {"reconnect": {"base": 0.05, "max": 0.1, "maxAttempts": 2}}
        client = await self.client(f"wss://127.0.0.1:{port}", {"tls": {"ca": str(self.authority.cert)}} | few)
        await client.expect("end")
        self.assertEqual([e for e in client.seen("message")], [])

    async def test_both_ends(self):
        cert, key = self.authority.issue("localhost", "localhost", "127.0.0.1")
        _, port = await self.wss({"cert": str(cert), "key": str(key)})
        await self.through(await self.client(f"wss://127.0.0.1:{port}", {"tls": {"ca": str(self.authority.cert)}}))


class UnixSocket(InteropCase):
    async def test_server(self):
        path = self.folder / "ws.sock"
        await self.server(listen=f"unix://{path}")
        async with unix_connect(str(path)) as peer:
            await peer.send("no port")
            self.assertEqual(await asyncio.wait_for(peer.recv(), PATIENCE), "no port")

    async def test_client(self):
        path = self.folder / "far.sock"

        async def handler(peer):
            async for message in peer:
                await peer.send(message)

        server = await unix_serve(handler, str(path))
        self.addCleanup(server.close)
        client = await self.client(f"unix://{path}")
        await client.expect("open")
        await client.tell("send", data="no port")
        await client.expect("message", data="no port")

    async def test_a_socket_file_left_behind_is_replaced(self):
        path = self.folder / "ws.sock"
        server, _ = await self.server(listen=f"unix://{path}")
        server.process.kill()
        await server.process.wait()
        self.assertTrue(path.exists())
        await self.server(listen=f"unix://{path}")
        async with unix_connect(str(path)) as peer:
            await peer.send("again")
            self.assertEqual(await asyncio.wait_for(peer.recv(), PATIENCE), "again")

    async def test_several_listeners(self):
        path = self.folder / "ws.sock"
        server, _ = await self.server(listen=[f"unix://{path}", "ws://127.0.0.1:0"])
        async with unix_connect(str(path)) as peer:
            await peer.send("over the file")
            self.assertEqual(await asyncio.wait_for(peer.recv(), PATIENCE), "over the file")
