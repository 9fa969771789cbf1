"""vendor/bin/lifeline, against servers that it has started and that it has not."""

import asyncio
import json
import os
import re
import signal
from pathlib import Path

from support import HERE, PATIENCE, ROOT, InteropCase, eventually, php_command
from websockets.asyncio.client import connect

BIN = str(ROOT / "php" / "bin" / "lifeline")
SERVICE = str(HERE / "service.php")
WORKERS = str(HERE / "workers.php")


def php(*options: str) -> list[str]:
    *command, _ = php_command("")
    return [*command[:1], *options, *command[1:]]


class Cli(InteropCase):
    async def run_it(self, *arguments: str, options: tuple = (), env: dict | None = None) -> tuple[int, str, str]:
        process = await asyncio.create_subprocess_exec(
            *php(*options), BIN, *arguments, cwd=self.folder, env={**os.environ, **(env or {})},
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )
        out, err = await asyncio.wait_for(process.communicate(), PATIENCE)
        return process.returncode, out.decode(), err.decode()

    async def ok(self, *arguments: str, **more) -> str:
        code, out, err = await self.run_it(*arguments, **more)
        self.assertEqual((code, err), (0, ""), out)
        return out

    async def fails(self, code: int, pattern: str, *arguments: str, **more) -> None:
        status, out, err = await self.run_it(*arguments, **more)
        self.assertRegex(err, f"^lifeline: .*{pattern}")
        self.assertEqual((status, out), (code, ""), err)

    def admin(self) -> str:
        return f"unix://{self.folder}/admin.sock"

    def configure(self, **options) -> None:
        (self.folder / "lifeline.json").write_text(json.dumps({"script": SERVICE, "admin": self.admin(), "pidFile": "app.pid", "log": "app.log"} | options))

    async def daemon(self, *arguments: str, **more) -> int:
        """Starts the service of the folder; ends it with the test."""
        config = json.dumps({"options": {"admin": self.admin()}})
        said = await self.ok("start", "--daemon", *arguments, SERVICE, config, **more)
        pid = int(re.fullmatch(r"ready, as process (\d+)\n", said)[1])

        self.addCleanup(self.end, pid)
        return pid

    @staticmethod
    def end(pid: int) -> None:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass

    async def test_a_server_from_its_start_to_its_end(self):
        self.configure()
        pid = await self.daemon()
        await self.fails(1, f"it runs already, as process {pid} ", "start", "--daemon")
        self.assertEqual((self.folder / "app.pid").read_text().splitlines()[0], str(pid))
        # It listens already: readiness was waited for.
        url = re.search(r"listens on (ws://\S+) as (\d+)", (self.folder / "app.log").read_text())
        self.assertEqual(int(url[2]), pid)
        async with connect(f"{url[1]}/chat?token=secret", ping_interval=None) as peer:
            await peer.send("hello")
            self.assertEqual(await asyncio.wait_for(peer.recv(), PATIENCE), f"hello from {pid}")
            status = await self.ok("status")
            self.assertRegex(status, rf"^server +ready, {url[1]}\nprocess +{pid}, up .*\nconnections +1 open, 0 in handshake")
            self.assertNotIn("\x1b", status)
            self.assertEqual(json.loads(await self.ok("status", "--json"))["stats"]["messages"]["in"], 1)
            listed = await self.ok("connections")
            self.assertRegex(listed, r"^1 connection\n *id +from +path .*\n *1 +127\.0\.0\.1:\d+ +/chat ")
            self.assertNotIn("secret", listed + await self.ok("connections", "--json"))
            self.assertEqual(json.loads(await self.ok("connections", "--json"))["connections"][0]["messagesIn"], 1)
            self.assertEqual((await self.ok("connections", "--watch", "--count=2", "--interval=0.1")).count("1 connection\n"), 2)
            top = (await self.ok("top", "--count=2", "--interval=0.1")).splitlines()
            self.assertEqual((top[0].split()[0], len(top)), ("connections", 3))
            stopping = asyncio.create_task(self.ok("stop"))
            # Drained, not cut.
            await asyncio.wait_for(peer.wait_closed(), PATIENCE)
            self.assertEqual(peer.close_code, 1001)
        self.assertRegex(await stopping, r"^ended after \d+\.\d s\n$")
        self.assertIn("drained", (self.folder / "app.log").read_text())
        self.assertFalse((self.folder / "app.pid").exists())
        await self.fails(1, "it does not run: there is no .*app.pid", "stop")
        await self.fails(1, "nothing answers on unix://.*is the server running, with that as its option 'admin'", "status")

    async def test_more_connections_than_a_page(self):
        await self.daemon()
        url = re.search(r"listens on (ws://\S+)", (self.folder / "lifeline.log").read_text())[1]
        peers = [await connect(url, ping_interval=None) for _ in range(12)]
        listed = json.loads(await self.ok("connections", "--limit=0", "--json", f"--admin={self.admin()}"))
        self.assertEqual([one["id"] for one in listed["connections"]], list(range(1, 13)))
        some = await self.ok("connections", "--limit=5", "--admin", self.admin())
        self.assertTrue(some.startswith("5 of 12 connections\n") and len(some.splitlines()) == 7, some)
        for peer in peers:
            peer.transport.abort()

    async def test_the_foreground_is_the_script_itself(self):
        for options, name in (((), "exec"), (("-d", "disable_functions=pcntl_exec"), "here")):
            with self.subTest(name):
                process = await asyncio.create_subprocess_exec(
                    *php("-d", "precision=9", *options), BIN, "start", "--pid-file=it.pid", SERVICE, '{"drain": 0}', cwd=self.folder,
                    stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE,
                )
                line = (await asyncio.wait_for(process.stdout.readline(), PATIENCE)).decode()
                self.assertRegex(line, rf"^listens on ws://\S+ as {process.pid}\n$")
                self.assertEqual((self.folder / "it.pid").read_text().splitlines()[0], str(process.pid))
                # What PHP was given goes on.
                self.assertIn(b"precision=9", Path(f"/proc/{process.pid}/cmdline").read_bytes())
                process.terminate()
                self.assertEqual((await asyncio.wait_for(process.stdout.read(), PATIENCE)).decode(), "drained\n")
                self.assertEqual(await process.wait(), 0)
        # Its file has outlived it, which deceives nobody.
        await self.fails(1, "it does not run: the process of it.pid has ended", "stop", "--pid-file=it.pid")

    async def test_who_does_not_end_is_killed_only_when_asked(self):
        (self.folder / "deaf.php").write_text("<?php pcntl_signal(SIGTERM, SIG_IGN); (new WsServer('ws://127.0.0.1:0'))->run();")
        said = await self.ok("start", "--daemon", "deaf.php")
        pid = int(said.split()[-1])
        await self.fails(1, f"process {pid} has not ended within 0.1 s", "stop", "--timeout=0.1")
        os.kill(pid, 0)
        await self.ok("stop", "--timeout=0.1", "--force")
        # A zombie at most: nobody here waits for it.
        stat = Path(f"/proc/{pid}/stat")
        self.assertTrue(not stat.exists() or " Z " in stat.read_text())

    async def test_a_script_that_fails_is_told_of(self):
        (self.folder / "broken.php").write_text("<?php fwrite(STDERR, \"no database\\n\"); exit(3);")
        await self.fails(1, "it has ended before it was ready.*\nno database", "start", "--daemon", "broken.php")
        self.assertFalse((self.folder / "lifeline.pid").exists())
        (self.folder / "idle.php").write_text("<?php sleep(60);")
        await self.fails(1, "no server listens after 0.2 s; see lifeline.log", "start", "--daemon", "--timeout=0.2", "idle.php")
        await self.ok("stop")

    async def test_workers_are_shown_and_reloaded(self):
        self.configure(script=WORKERS)
        broken = self.folder / "broken"
        config = json.dumps({"options": {"admin": self.admin(), "workers": 2, "watchdog": {"lag": 600}}, "broken": str(broken)})
        gateway = int((await self.ok("start", "--daemon", WORKERS, config)).split()[-1])
        self.addCleanup(self.end, gateway)
        url = re.search(r"listens on (ws://\S+)", (self.folder / "app.log").read_text())[1]
        async with connect(url, ping_interval=None) as peer:

            async def served_by() -> int:
                await peer.send("hello")
                return int((await asyncio.wait_for(peer.recv(), PATIENCE)).split()[-1])

            first = await served_by()
            self.assertNotEqual(first, gateway)

            async def counted() -> bool:
                return re.search(rf"\n +[12] +{first} .* 1 +1 ", await self.ok("status")) is not None

            # The figures of workers are a quarter of a second old at most.
            await eventually(counted)
            status = await self.ok("status")
            self.assertRegex(status, r"\nworkers +2 of 2 serve, generation 1; reloads 0, failed 0; crashes 0, recycled 0; messages lost 0\n")
            self.assertRegex(status, rf"\nworker +process  state +connections .*\n(.*\n)* +[12] +{first}  serving +1 ")
            self.assertRegex(await self.ok("reload"), r"^reloaded: generation 2, 2 workers, after \d+\.\d s\n$")
            second = await served_by()
            self.assertNotIn(second, (first, gateway))

            broken.touch()
            await self.fails(1, "not reloaded, the old workers go on: .*no database today", "reload")
            self.assertEqual(await served_by(), second)
            self.assertRegex(await self.ok("status"), r"generation 2; reloads 1, failed 1; .*\n +last error: .*no database today")
            broken.unlink()
            # The process that answers is known without the file, too.
            (self.folder / "app.pid").rename(self.folder / "other.pid")
            self.assertRegex(await self.ok("reload"), "^reloaded: generation 3, ")
            (self.folder / "other.pid").write_text(f"{os.getpid()}\n")
            await self.fails(1, f"process {gateway} answers on .*, but process {os.getpid()} is that of other.pid", "reload", "--pid-file=other.pid")
        self.end(gateway)

        await self.fails(1, "nothing answers on ", "reload")
        self.configure()
        pid = await self.daemon()
        await self.fails(1, "has no workers .*needs a restart", "reload")
        # It has not been signalled: that would have been its end.
        self.assertEqual(json.loads(await self.ok("status", "--json"))["pid"], pid)

    async def test_what_is_wrong_is_named(self):
        listening = await asyncio.start_server(lambda r, w: w.close(), "127.0.0.1", 0)
        self.addCleanup(listening.close)
        stranger = listening.sockets[0].getsockname()[1]
        await self.fails(1, "is not the admin listener of a lifeline server: it is no HTTP server", "status", f"--admin=127.0.0.1:{stranger}")
        for pattern, *arguments in (
            ("there is no command 'restart'", "restart"),
            ("there is no option '--loud'", "status", "--loud"),
            ("the option --admin needs a value", "status", "--admin"),
            ("the option --json takes no value", "status", "--json=1"),
            ("'status' does not take --force", "status", "--force"),
            ("'top' takes no 'now'", "top", "now"),
            ("must be 'host:port' or 'unix:///path', 'nowhere' given", "status", "--admin=nowhere"),
            ("--limit must be a number from 0, 'x' given", "connections", "--limit=x"),
            ("'start' needs a script", "start"),
        ):
            with self.subTest(arguments):
                await self.fails(2, pattern, *arguments)
        await self.fails(1, "there is no script 'none.php'", "start", "none.php")
        for text, pattern in (("[", "must be a JSON object"), ('{"port": 1}', "there is no setting 'port'"), ('{"admin": 1}', "'admin' must be a string, int given")):
            (self.folder / "lifeline.json").write_text(text)
            await self.fails(1, pattern, "status")
        self.assertIn("lifeline status", await self.ok("help"))
        self.assertEqual(await self.ok(), await self.ok("--help"))
        (self.folder / "other.php").write_text("<?php return ['admin' => '127.0.0.1:1'];")
        await self.fails(1, "nothing answers on 127.0.0.1:1 ", "status", "--config=other.php")
