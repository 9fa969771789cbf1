"""Watch connections survive: a server, clients and a peer of another make, and everything that goes wrong.

    demo.py [seconds]

Every connection goes through a relay in this process. It reads the frames that pass, so heartbeats
and their round trips are seen on the wire, independent of what the two ends say, and it cuts links.
After the time is over a verdict with counts is printed; the exit code is 0 when all of it held.
"""

import asyncio
import json
import os
import shutil
import signal
import sys
import time
from collections import deque
from pathlib import Path

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException
from websockets.frames import Frame, Opcode

ROOT = Path(__file__).resolve().parents[1]
CLIENTS = ["alice", "bob", "carol", "dave"]
# Of the server and the clients; see php/demo.
INTERVAL, TIMEOUT = 1.0, 1.0
BOLD, DIM, RED, GREEN, YELLOW, CYAN, PLAIN = "\033[1m", "\033[2m", "\033[31m", "\033[32m", "\033[33m", "\033[36m", "\033[0m"


class Peer:
    """What is known of one client."""

    def __init__(self, name: str, make: str):
        self.name, self.make = name, make
        self.state = "Disconnected"
        self.note = ""
        self.connects = 0
        self.delay: float | None = None
        self.sent = self.received = self.duplicates = self.waiting = 0
        self.beats: list[float] = []
        self.rtt: float | None = None
        self.process: asyncio.subprocess.Process | None = None


class FrameReader:
    """Gives the opcodes of the frames in one direction of a connection, from its first byte on, and how their payloads
    begin."""

    def __init__(self):
        self._buffer = bytearray()
        self._skip = 0
        self.head: bytes | None = None

    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        self._buffer += data
        if self.head is None:
            end = self._buffer.find(b"\r\n\r\n")
            if end < 0:
                return []
            self.head = bytes(self._buffer[:end])
            del self._buffer[: end + 4]
        frames = []
        while True:
            skipped = min(self._skip, len(self._buffer))
            del self._buffer[:skipped]
            self._skip -= skipped
            if self._skip or len(self._buffer) < 2:
                return frames
            length, size = self._buffer[1] & 0x7F, 2
            extended = {126: 2, 127: 8}.get(length, 0)
            if len(self._buffer) < size + extended:
                return frames
            if extended:
                length = int.from_bytes(self._buffer[2 : 2 + extended], "big")
            masked = self._buffer[1] & 0x80
            size += extended + (4 if masked else 0)
            if len(self._buffer) < size + min(length, 2):
                return frames
            mask = self._buffer[size - 4 : size] if masked else bytes(4)
            start = bytes(byte ^ key for byte, key in zip(self._buffer[size : size + min(length, 2)], mask))
            frames.append((self._buffer[0] & 0x0F, start))
            self._skip = size + length


class Demo:
    def __init__(self, duration: float):
        self.duration = duration
        self.began = time.monotonic()
        self.peers = {name: Peer(name, "lifeline") for name in CLIENTS}
        self.peers["python"] = Peer("python", "websockets")
        self.links: dict[str, list[asyncio.StreamWriter]] = {}
        self.log: deque[tuple[str, str]] = deque(maxlen=12)
        self.server: asyncio.subprocess.Process | None = None
        self.server_note = "starting"
        self.server_port = 0
        self.server_losses: dict[str, float] = {}
        self.ready = asyncio.Event()
        self.over = False
        self.live = sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"
        self.checks: list[tuple[bool, str]] = []
        self.tasks: set[asyncio.Task] = set()

    # --- what the viewer sees

    def now(self) -> float:
        return time.monotonic() - self.began

    def say(self, text: str, color: str = "") -> None:
        line = f"{self.now():6.2f} s  {text}"
        self.log.append((color, line))
        if not self.live:
            print(line, flush=True)

    def draw(self) -> None:
        width = shutil.get_terminal_size().columns
        lines = [f"{BOLD}lifeline{PLAIN}  {self.now():5.1f} of {self.duration:.0f} s   server: {self.server_note}", ""]
        lines.append(f"{DIM}{'peer':8}{'make':11}{'state':13}{'beats':>5}{'last':>6}{'rtt':>9}{'conn':>5}{'delay':>8}"
                     f"{'sent':>5}{'back':>5}{'wait':>5}{PLAIN}")
        for peer in self.peers.values():
            color = RED if peer.note else GREEN if peer.state == "Connected" else YELLOW
            last = f"{self.now() - peer.beats[-1]:.1f} s" if peer.beats else "-"
            rtt = f"{peer.rtt * 1000:.1f} ms" if peer.rtt is not None else "-"
            delay = f"{peer.delay:.2f} s" if peer.delay is not None else "-"
            lines.append(f"{peer.name:8}{peer.make:11}{color}{peer.note or peer.state:13}{PLAIN}{len(peer.beats):>5}{last:>6}{rtt:>9}"
                         f"{peer.connects:>5}{delay:>8}{peer.sent:>5}{peer.received:>5}{peer.waiting:>5}")
        lines += ["", *(f"{color}{text[:width]}{PLAIN}" for color, text in self.log)]
        sys.stdout.write("\033[H" + "".join(f"{line}\033[K\n" for line in lines) + "\033[J")
        sys.stdout.flush()

    def status(self) -> None:
        rows = []
        for peer in self.peers.values():
            rtt = f"{peer.rtt * 1000:.1f} ms" if peer.rtt is not None else "-"
            rows.append(f"{peer.name} {peer.state}{' (' + peer.note + ')' if peer.note else ''}, {len(peer.beats)} beats, rtt {rtt}")
        self.say("      " + "; ".join(rows))

    async def show(self) -> None:
        if self.live:
            sys.stdout.write("\033[2J")
        while not self.over:
            if self.live:
                self.draw()
            else:
                self.status()
            await asyncio.sleep(0.1 if self.live else 2.0)

    # --- processes

    def spawn(self, coroutine) -> None:
        task = asyncio.create_task(coroutine)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def php(self, script: str, *arguments: str) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            os.environ.get("PHP", "php"), "-n", "-d", f"extension={os.environ['MODULE']}", str(ROOT / "php" / "demo" / script),
            *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )

    async def events(self, process: asyncio.subprocess.Process):
        async for line in process.stdout:
            try:
                yield json.loads(line)
            except ValueError:
                yield {"event": "output", "line": line.decode(errors="replace").rstrip()}

    async def start_server(self) -> None:
        self.ready.clear()
        self.server = await self.php("server.php", f"ws://127.0.0.1:{self.server_port}")
        self.spawn(self.watch_server(self.server))
        await asyncio.wait_for(self.ready.wait(), 20)

    async def watch_server(self, process: asyncio.subprocess.Process) -> None:
        async for event in self.events(process):
            match event["event"]:
                case "ready":
                    self.server_port = int(event["address"].rstrip("/").rsplit(":", 1)[1])
                    self.server_note = f"up, process {process.pid}"
                    self.say(f"server is up on {event['address']}", GREEN)
                    self.ready.set()
                case "blocked":
                    self.server_note = f"PHP BLOCKED for {event['seconds']} s"
                    self.say(f"server: a callback blocks PHP for {event['seconds']} s", RED)
                case "awake":
                    self.server_note = f"up, process {process.pid}"
                    self.say("server: PHP goes on", GREEN)
                case "close":
                    self.server_losses.setdefault(event["who"], self.now())
                    self.say(f"server lost {event['who']}: {event['code']} {event['reason']}", DIM)
                case "log":
                    self.say(f"server logs {event['level']}: {event['message']}", YELLOW)
                case "output":
                    self.say(f"server prints: {event['line']}", RED)
        self.server_note = "DOWN"

    async def start_client(self, peer: Peer) -> None:
        peer.process = await self.php("client.php", peer.name, f"ws://127.0.0.1:{self.relay_port}")
        self.spawn(self.watch_client(peer))

    async def watch_client(self, peer: Peer) -> None:
        async for event in self.events(peer.process):
            match event["event"]:
                case "state":
                    peer.state = event["to"]
                    peer.delay = event["delay"]
                    peer.connects += event["to"] == "Connected"
                    next_try = f", next attempt in {event['delay']:.3f} s" if event["delay"] is not None else ""
                    why = f" ({event['code']} {event['reason']})" if event["to"] == "Reconnecting" else ""
                    if event["to"] in ("Connected", "Reconnecting", "Closed"):
                        color = GREEN if event["to"] == "Connected" else YELLOW
                        self.say(f"{peer.name}: {event['from']} -> {event['to']}{why}{next_try}", color)
                case "counts":
                    peer.sent, peer.received = event["sent"], event["received"]
                    peer.duplicates, peer.waiting = event["duplicates"], event["waiting"]
                case "blocked":
                    peer.note = "PHP blocked"
                    self.say(f"{peer.name}: a callback blocks PHP for {event['seconds']} s", RED)
                case "awake":
                    peer.note = ""
                    self.say(f"{peer.name}: PHP goes on", GREEN)
                case "error" | "output":
                    self.say(f"{peer.name}: {event.get('message') or event.get('line')}", RED)

    # --- the peer of another make

    async def python_peer(self) -> None:
        """Python's websockets: sends numbered messages, drops a server that is silent, comes back by its own loop."""
        peer, number, back = self.peers["python"], 0, set()
        demo = self

        class Connection(ClientConnection):
            def process_event(self, event):
                if isinstance(event, Frame) and event.opcode is Opcode.PING:
                    demo.python_beats.append(demo.now())
                super().process_event(event)

        while not self.over:
            peer.state = "Connecting"
            try:
                url = f"ws://127.0.0.1:{self.relay_port}/python"
                async with connect(url, create_connection=Connection, ping_interval=0.5, ping_timeout=2, close_timeout=1) as link:
                    peer.state, peer.connects, self.python = "Connected", peer.connects + 1, link
                    self.say("python: connected", GREEN)

                    async def read():
                        async for message in link:
                            back.add(json.loads(message)["n"])
                            peer.received = len(back)

                    reader = asyncio.create_task(read())
                    try:
                        while not reader.done():
                            if not self.quiet:
                                number += 1
                                await link.send(json.dumps({"n": number}))
                                peer.sent = number
                            await asyncio.wait([reader], timeout=0.4)
                    finally:
                        reader.cancel()
                        await asyncio.wait([reader])
            except (OSError, WebSocketException, TimeoutError, EOFError):
                pass
            self.python = None
            if not self.over:
                peer.state = "Reconnecting"
                self.say("python: lost, its own loop tries again", YELLOW)
                await asyncio.sleep(0.3)

    # --- the wire

    async def relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.server_port)
        except OSError:
            writer.transport.abort()
            return
        up, down = FrameReader(), FrameReader()
        peer: Peer | None = None
        pinged: deque[float] = deque()

        def seen(direction: FrameReader, data: bytes) -> None:
            nonlocal peer
            frames = direction.feed(data)
            if peer is None and up.head is not None:
                name = up.head.split(b" ", 2)[1].decode().lstrip("/")
                peer = self.peers.get(name, Peer(name, "?"))
                self.links.setdefault(name, []).append(writer)
            for opcode, start in frames:
                # `I n` and `O n` are the beats of lifeline.v1.
                if direction is down and (opcode == Opcode.PING or start == b"I "):
                    pinged.append(time.monotonic())
                elif direction is up and (opcode == Opcode.PONG or start == b"O ") and pinged and peer:
                    peer.rtt = time.monotonic() - pinged.popleft()
                    peer.beats.append(self.now())

        async def pump(source, sink, direction):
            try:
                while data := await source.read(65536):
                    seen(direction, data)
                    sink.write(data)
                    await sink.drain()
                sink.write_eof()
            except (OSError, RuntimeError):
                # What is cut on one side is cut on the other.
                sink.transport.abort()

        await asyncio.gather(pump(reader, far_writer, up), pump(far_reader, writer, down))
        for end in (writer, far_writer):
            end.close()
        if peer and writer in self.links.get(peer.name, []):
            self.links[peer.name].remove(writer)

    def cut(self, names: list[str]) -> None:
        for name in names:
            for link in self.links.pop(name, []):
                link.transport.abort()

    # --- the plot

    async def until(self, fraction: float) -> None:
        await asyncio.sleep(max(0.0, self.start + fraction * (self.duration - 2) - time.monotonic()))

    async def back(self, names: list[str], before: dict[str, int], patience: float) -> float | None:
        """Seconds until each of these has connected again, or None."""
        began = time.monotonic()
        while time.monotonic() - began < patience:
            if all(self.peers[n].connects > before[n] and self.peers[n].state == "Connected" for n in names):
                return time.monotonic() - began
            await asyncio.sleep(0.01)
        return None

    def connects(self) -> dict[str, int]:
        return {peer.name: peer.connects for peer in self.peers.values()}

    def check(self, good: bool, text: str) -> None:
        self.checks.append((bool(good), text))

    def check_back(self, what: str, seconds: float | None) -> None:
        self.check(seconds is not None, f"{what}: back by itself" + (f" after {seconds:.2f} s" if seconds is not None else ": NO"))

    async def plot(self) -> None:
        everyone = list(self.peers)
        scale = self.duration / 30
        patience = 6.0

        await self.until(0.06)
        before = self.connects()
        self.say("the link of alice is cut", BOLD)
        self.cut(["alice"])
        self.check_back("alice, link cut", await self.back(["alice"], before, patience))

        await self.until(0.16)
        before, blocked_from = self.connects(), self.now()
        block = round(5 * scale, 1)
        await self.python.send(json.dumps({"block": block}))
        await asyncio.sleep(block)
        blocked_to = self.now()
        await asyncio.sleep(0.3)
        for name in everyone:
            inside = [blocked_from, *(b for b in self.peers[name].beats if blocked_from < b < blocked_to), blocked_to]
            gap = max(b - a for a, b in zip(inside, inside[1:]))
            kept = self.peers[name].connects == before[name] and self.peers[name].state == "Connected"
            self.check(kept and gap < INTERVAL + TIMEOUT,
                       f"{name}, server's PHP blocked {block} s: {len(inside) - 2} beats answered, longest gap {gap:.2f} s, "
                       f"{'link kept' if kept else 'LINK LOST'}")

        await self.until(0.42)
        before = self.connects()
        freeze = max(3.5, 4 * scale)
        self.say(f"carol is frozen (SIGSTOP) for {freeze:.1f} s", BOLD)
        carol = self.peers["carol"]
        carol.note = "frozen"
        self.server_losses.pop("carol", None)
        frozen_at = self.now()
        carol.process.send_signal(signal.SIGSTOP)
        await asyncio.sleep(freeze)
        found = self.server_losses.get("carol")
        # A beat may just have been answered: one interval, then the time for an answer. The rest is this machine's.
        limit = INTERVAL + TIMEOUT + 1.0
        self.check(found is not None and found - frozen_at < limit,
                   f"carol frozen: found by the server after {found - frozen_at:.2f} s" if found is not None else "carol frozen: NOT found")
        carol.process.send_signal(signal.SIGCONT)
        carol.note = ""
        self.say("carol goes on (SIGCONT)", BOLD)
        self.check_back("carol, thawed", await self.back(["carol"], before, patience))

        await self.until(0.62)
        before = self.connects()
        outage = 1.5
        self.say(f"the server is killed (SIGKILL) and away for {outage} s", BOLD)
        self.server.kill()
        await self.server.wait()
        await asyncio.sleep(outage)
        await self.start_server()
        self.check_back("everyone, server killed and restarted", await self.back(everyone, before, patience))

        await self.until(0.78)
        before = self.connects()
        self.say("all links are cut", BOLD)
        self.cut(everyone)
        self.check_back("everyone, all links cut", await self.back(everyone, before, patience))

        await self.until(0.86)
        before, blocked_from = self.connects(), self.now()
        block = round(3 * scale, 1)
        await self.python.send(json.dumps({"block": block, "who": "bob"}))
        await asyncio.sleep(block)
        bob = self.peers["bob"]
        beats = [b for b in bob.beats if blocked_from < b < self.now()]
        kept = bob.connects == before["bob"] and bob.state == "Connected"
        self.check(kept and beats, f"bob, its own PHP blocked {block} s: {len(beats)} beats answered, {'link kept' if kept else 'LINK LOST'}")

        await self.until(0.97)

    async def run(self) -> bool:
        self.python, self.python_beats, self.quiet = None, [], False
        relay = await asyncio.start_server(self.relay, "127.0.0.1", 0)
        self.relay_port = relay.sockets[0].getsockname()[1]
        await self.start_server()
        self.spawn(self.show())
        for name in CLIENTS:
            await self.start_client(self.peers[name])
        self.spawn(self.python_peer())
        first = await self.back(list(self.peers), dict.fromkeys(self.peers, 0), 20)
        self.check(first is not None, f"{len(self.peers)} peers connected")
        self.start = time.monotonic()
        try:
            if first is not None:
                await self.plot()
                await self.settle()
        finally:
            self.over = True
            # Clients first: without them the server's end is a quiet one.
            for process in [*(p.process for p in self.peers.values()), self.server]:
                if process and process.returncode is None:
                    process.terminate()
                    try:
                        await asyncio.wait_for(process.wait(), 5)
                    except TimeoutError:
                        process.kill()
            relay.close()
            if self.live and first is not None:
                self.draw()
        return self.verdict()

    async def settle(self) -> None:
        """No new messages; those under way come back."""
        self.quiet = True
        for name in CLIENTS:
            self.peers[name].process.send_signal(signal.SIGUSR1)
        await asyncio.sleep(1.2)
        states = {peer.name: peer.state for peer in self.peers.values()}
        self.check(set(states.values()) == {"Connected"}, f"at the end: {states}")
        ours = [self.peers[name] for name in CLIENTS]
        self.check(sum(p.duplicates for p in ours) == 0, "no message came back twice")
        self.check(sum(p.waiting for p in ours) == 0, "nothing is left in an outbox: what was sent while a link was down has been delivered")
        # A plain peer acknowledges nothing: what was on a link when it was cut is gone, and nobody can know.
        # Each client was cut three times and sends 2.5 messages a second; a second of them each is generous.
        lost = sum(p.sent - p.received for p in ours)
        self.check(lost <= len(ours) * 3 * 3,
                   f"messages: {sum(p.sent for p in ours)} sent, {sum(p.received for p in ours)} came back, {lost} were on a link as it was cut")

    def verdict(self) -> bool:
        print()
        for good, text in self.checks:
            print(f"{'ok  ' if good else 'FAIL'}  {text}")
        failed = sum(not good for good, _ in self.checks)
        print(f"demo: {len(self.checks) - failed} passed, {failed} failed")
        return failed == 0


def main() -> int:
    duration = float(sys.argv[1]) if sys.argv[1:] else 30.0
    if duration < 15:
        print("demo.py: at least 15 seconds are needed to show everything", file=sys.stderr)
        return 2
    try:
        return 0 if asyncio.run(Demo(duration).run()) else 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
