"""Behind nginx and HAProxy that cut idle connections after two seconds; through an HTTP proxy.

Each of the two is run with heartbeats, which keep the link, and without, so that it is known that
the link would have died.
"""

import asyncio
import base64
import os
import time

from support import PATIENCE, InteropCase, free_port
from websockets.asyncio.client import connect
from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed

IDLE = 2.0
BEATS = {"heartbeat": {"interval": 0.5, "timeout": 2}}
SILENCE = {"heartbeat": {"mode": "off"}}


class ReverseProxyCase(InteropCase):
    async def front(self, backend: int) -> int:
        raise NotImplementedError

    async def start_proxy(self, port: int, *command: str) -> None:
        log = (self.folder / "proxy.log").open("w")
        self.addCleanup(log.close)
        process = await asyncio.create_subprocess_exec(*command, stdout=log, stderr=log)

        async def stop():
            if process.returncode is None:
                process.terminate()
            await process.wait()

        self.addAsyncCleanup(stop)
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.close()
                return
            except OSError:
                if process.returncode is not None or time.monotonic() > deadline:
                    raise AssertionError((self.folder / "proxy.log").read_text()) from None
                await asyncio.sleep(0.05)

    async def server_side(self, options: dict):
        server, url = await self.server(options)
        port = await self.front(int(url.rsplit(":", 1)[1]))
        return server, f"ws://127.0.0.1:{port}/"

    async def client_side(self, options: dict):
        async def echo(peer):
            async for message in peer:
                await peer.send(message)

        server = await serve(echo, "127.0.0.1", 0, ping_interval=None)
        self.addCleanup(server.close)
        port = await self.front(server.sockets[0].getsockname()[1])
        client = await self.client(f"ws://127.0.0.1:{port}/", options | {"reconnect": {"base": 0.2}})
        await client.expect("open")
        return client


class ReverseProxyTests:
    async def test_beats_of_the_server_keep_the_link(self):
        server, url = await self.server_side(BEATS)
        async with connect(url, ping_interval=None) as peer:
            # Quiet for thrice the proxy's patience.
            with self.assertRaises(TimeoutError):
                await asyncio.wait_for(peer.recv(), 3 * IDLE)
            await peer.send("still here")
            self.assertEqual(await asyncio.wait_for(peer.recv(), PATIENCE), "still here")
        self.assertEqual(len(server.seen("open")), 1)

    async def test_without_beats_the_server_loses_it(self):
        server, url = await self.server_side(SILENCE)
        began = time.monotonic()
        async with connect(url, ping_interval=None) as peer:
            with self.assertRaises(ConnectionClosed):
                await asyncio.wait_for(peer.recv(), PATIENCE)
        self.assertGreater(time.monotonic() - began, IDLE - 0.5)
        self.assertEqual((await server.expect("close"))["code"], 1006)

    async def test_beats_of_the_client_keep_the_link(self):
        client = await self.client_side(BEATS)
        await asyncio.sleep(3 * IDLE)
        await client.tell("send", data="still here")
        await client.expect("message", data="still here")
        self.assertEqual(client.seen("close"), [])

    async def test_without_beats_the_client_loses_it_and_comes_back(self):
        client = await self.client_side(SILENCE)
        event = await client.expect("close")
        self.assertEqual((event["code"], event["clean"]), (1006, False))
        await client.expect("open")


class BehindNginx(ReverseProxyTests, ReverseProxyCase):
    async def front(self, backend: int) -> int:
        port = await free_port()
        config = self.folder / "nginx.conf"
        user = "user root;" if os.getuid() == 0 else ""
        config.write_text(f"""
            daemon off; {user} worker_processes 1; pid {self.folder}/nginx.pid; error_log stderr;
            events {{ worker_connections 64; }}
            http {{
                access_log off;
                client_body_temp_path {self.folder}/body; proxy_temp_path {self.folder}/proxy;
                fastcgi_temp_path {self.folder}/fastcgi; uwsgi_temp_path {self.folder}/uwsgi;
                scgi_temp_path {self.folder}/scgi;
                server {{
                    listen 127.0.0.1:{port};
                    location / {{
                        proxy_pass http://127.0.0.1:{backend};
                        proxy_http_version 1.1;
                        proxy_set_header Upgrade $http_upgrade;
                        proxy_set_header Connection upgrade;
                        proxy_set_header Host $http_host;
                        proxy_read_timeout {IDLE:.0f}s;
                        proxy_send_timeout {IDLE:.0f}s;
                    }}
                }}
            }}""")
        await self.start_proxy(port, "/usr/sbin/nginx", "-p", str(self.folder), "-e", "stderr", "-c", str(config))
        return port


class BehindHAProxy(ReverseProxyTests, ReverseProxyCase):
    async def front(self, backend: int) -> int:
        port = await free_port()
        config = self.folder / "haproxy.cfg"
        config.write_text(f"""
defaults
    mode http
    timeout connect 5s
    timeout client {IDLE:.0f}s
    timeout server {IDLE:.0f}s
    timeout tunnel {IDLE:.0f}s
frontend front
    bind 127.0.0.1:{port}
    default_backend back
backend back
    server only 127.0.0.1:{backend}
""")
        await self.start_proxy(port, "/usr/sbin/haproxy", "-db", "-f", str(config))
        return port


class ForwardProxy(InteropCase):
    """A client that dials through `CONNECT`."""

    async def proxy(self, authorization: str | None = None):
        """A proxy of the test's own; gives its port and the list of what it was asked."""
        asked: list[str] = []

        async def handle(reader, writer):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            asked.append(head)
            method, target, _ = head.split("\r\n")[0].split(" ")
            if authorization and f"proxy-authorization: {authorization}".lower() not in head.lower():
                writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
                writer.close()
                return
            if method != "CONNECT":
                writer.write(b"HTTP/1.1 405 Method Not Allowed\r\nContent-Length: 0\r\n\r\n")
                writer.close()
                return
            host, port = target.rsplit(":", 1)
            far_reader, far_writer = await asyncio.open_connection(host, int(port))
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")

            async def pump(source, sink):
                try:
                    while data := await source.read(65536):
                        sink.write(data)
                        await sink.drain()
                except OSError:
                    pass
                finally:
                    sink.close()

            await asyncio.gather(pump(reader, far_writer), pump(far_reader, writer))

        server = await asyncio.start_server(handle, "127.0.0.1", 0)
        self.addCleanup(server.close)
        return server.sockets[0].getsockname()[1], asked

    async def target(self):
        async def echo(peer):
            async for message in peer:
                await peer.send(message)

        server = await serve(echo, "127.0.0.1", 0)
        self.addCleanup(server.close)
        return server.sockets[0].getsockname()[1]

    async def test_from_the_option_with_credentials(self):
        basic = "Basic " + base64.b64encode(b"me:secret").decode()
        proxy, asked = await self.proxy(basic)
        target = await self.target()
        client = await self.client(f"ws://127.0.0.1:{target}", {"connect": {"proxy": f"http://me:secret@127.0.0.1:{proxy}"}})
        await client.expect("open")
        await client.tell("send", data="through")
        await client.expect("message", data="through")
        self.assertEqual(asked[0].split("\r\n")[0], f"CONNECT 127.0.0.1:{target} HTTP/1.1")

    async def test_from_the_environment(self):
        proxy, asked = await self.proxy()
        target = await self.target()
        url = f"http://127.0.0.1:{proxy}"
        environment = {"http_proxy": url, "https_proxy": url, "all_proxy": url, "no_proxy": "", "NO_PROXY": ""}
        client = await self.client(f"ws://127.0.0.1:{target}", env=environment)
        await client.expect("open")
        self.assertEqual(len(asked), 1)
        # And not where the environment says so.
        client = await self.client(f"ws://127.0.0.1:{target}", env={**environment, "no_proxy": "127.0.0.1"})
        await client.expect("open")
        self.assertEqual(len(asked), 1)

    async def test_a_proxy_that_refuses_is_tried_again(self):
        proxy, asked = await self.proxy("Basic never")
        client = await self.client(
            "ws://127.0.0.1:9",
            {"connect": {"proxy": f"http://127.0.0.1:{proxy}"}, "reconnect": {"base": 0.05, "max": 0.1, "maxAttempts": 3}},
        )
        await client.expect("end")
        self.assertIn("407", client.seen("error")[-1]["message"] + str(client.seen("state")))
        self.assertGreaterEqual(len(asked), 1)
