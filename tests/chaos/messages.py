"""Messages over kill -9: client and server processes die at random, and nothing acknowledged is lost, nor anything
that an outbox on disk has taken; with a store on disk nothing that the server has sent or published."""

import array
import bisect
import collections
import os
import random
import re
import shutil
import statistics
import tempfile
import time

import harness
from harness import LIMIT, Php, check

# What dies and how often: clients, kills of each, kills of the server, messages sent each 5 ms by one client. The kills
# are spread by chance over so many handled messages.
SMALL = {"clients": 4, "each": 3, "server": 3, "batch": 4, "messages": 6000}
LONG = {"clients": 20, "each": 200, "server": 200, "batch": 8, "messages": 1_000_000}

FAST = {"reconnect": {"base": 0.05, "max": 0.5, "floor": 0.01}}


class Tail:
    """A file that grows: what was appended since the last time, in whole lines."""

    def __init__(self, path):
        self.path = path
        self.file = open(path, "rb")
        self.rest = b""

    def read(self):
        text = self.rest + self.file.read()
        # Whoever is killed may leave half a line.
        end = text.rfind(b"\n") + 1
        self.rest = text[end:]
        return text[:end]

    def close(self):
        self.file.close()
        os.unlink(self.path)


class Channel:
    """What was published, as the clients tell it: each message is taken apart once, and all others who have it must
    have the same bytes."""

    def __init__(self):
        self.text = bytearray()
        # Where the line of each offset begins, from offset 1 on; of one that nobody has heard, where the next begins.
        self.begins = array.array("Q")

    def add(self, chunk, who):
        """Lines that follow each other; returns the offsets of the first and behind the last, or None while what is before
        them is not known."""
        first = int(chunk[: chunk.index(b" ")])
        at = first - 1
        if at > len(self.begins):
            return None
        begin = self.begins[at] if at < len(self.begins) else len(self.text)
        known = min(len(chunk), len(self.text) - begin)
        if self.text[begin : begin + known] != chunk[:known]:
            pairs = zip(self.text[begin : begin + known].split(b"\n"), chunk.split(b"\n"))
            other = next((pair for pair in pairs if pair[0] != pair[1]), None)
            raise AssertionError(f"{who} has {other[1]!r} where there is {bytes(other[0])!r}")
        for line in chunk[known:].splitlines(keepends=True):
            offset = 1 + len(self.begins)
            check(line.startswith(b"%d " % offset), f"{who}: {line!r} is where offset {offset} should be")
            self.begins.append(len(self.text))
            self.text += line
        return first, 1 + bisect.bisect_left(self.begins, begin + len(chunk))

    def skip(self, first):
        """Nobody has heard what is before `first`."""
        while 1 + len(self.begins) < first:
            self.begins.append(len(self.text))


class Life:
    """What one client process says of itself."""

    def __init__(self, client, life, log):
        self.name = f"client {client}.{life}"
        self.key = (client, life)
        self.log = Tail(log)
        self.published = Tail(log + ".p")
        self.took = self.acknowledged = self.told = self.heard = 0
        self.answers = []
        self.waiting = b""
        self.next = None
        self.began = self.closed = None
        self.opened = self.ended = False


class Judge:
    """Reads what the processes write, while they write it."""

    def __init__(self, seed, durable, stored):
        self.seed = seed
        self.durable = durable
        self.stored = stored
        self.lives = []
        # The log of each server, and what it has handled last of each client's process.
        self.servers = []
        self.open = []
        self.handled = collections.defaultdict(list)
        self.total = 0
        self.channel = Channel()
        self.recoveries = []
        self.starts = []

    def check(self, condition, text):
        check(condition, f"seed {self.seed}: {text}")

    def read(self):
        """Everything that is new."""
        for number, (tail, last) in enumerate(self.servers, 1):
            if tail is not None:
                self.read_server(number, tail, last)
        for life in self.open:
            self.read_life(life)

    def read_server(self, number, tail, last):
        lines = tail.read().splitlines()
        for line in lines:
            client, life, item, _ = line.split(b" ")
            who, item = (int(client), int(life)), int(item)
            # One server's memory is enough for order, and for once.
            before = last.get(who, 0)
            self.check(before < item, f"server {number} handled {item} of client {who} behind {before}")
            last[who] = item
            self.handled[who].append(item)
        self.total += len(lines)

    def server_died(self):
        number = len(self.servers)
        tail, last = self.servers[-1]
        self.read_server(number, tail, last)
        tail.close()
        self.servers[-1] = (None, None)

    def died(self, life):
        self.read_life(life)
        self.open.remove(life)
        life.log.close()

    def read_life(self, life):
        text = life.log.read()
        life.answers += map(int, re.findall(rb"^r (\d+)$", text, re.M))
        for word, found in ((b"s", "took"), (b"a", "acknowledged")):
            at = max(text.rfind(b"\n" + word + b" "), 0 if text.startswith(word + b" ") else -1)
            if at >= 0:
                setattr(life, found, int(text[at:].split(None, 2)[1]))
        for word, rest in re.findall(rb"^([bcog]|end)(?: (.*))?$", text, re.M):
            if word == b"g":
                life.told += 1
                # Of a session that was made anew there is nothing to miss.
                self.check(not self.stored, f"{life.name} was told of a gap: {rest}")
            elif word == b"b":
                life.began = float(rest)
            elif word == b"c":
                life.closed = float(rest.split()[0])
            elif word == b"o":
                at = float(rest.split()[0])
                if not life.opened:
                    self.starts.append(at - life.began)
                elif life.closed is not None:
                    self.recoveries.append(at - life.closed)
                life.opened, life.closed = True, None
            else:
                life.ended = True
        self.read_published(life)

    def read_published(self, life):
        life.waiting += life.published.read()
        if not life.waiting:
            return False
        try:
            found = self.channel.add(life.waiting, life.name)
        except AssertionError as error:
            raise AssertionError(f"seed {self.seed}: {error}") from None
        if found is None:
            return False
        life.waiting = b""
        first, behind = found
        self.check(
            life.next in (None, first), f"{life.name} misses what was published between {life.next} and {first}"
        )
        life.next = behind
        life.heard += behind - first
        return True

    def verdict(self, clients, servers):
        """After the end of all."""
        waiting = [life for life in self.lives if life.waiting]
        while waiting:
            first = min(waiting, key=lambda life: int(life.waiting.split(b" ", 1)[0]))
            if not self.read_published(first):
                self.channel.skip(int(first.waiting.split(b" ", 1)[0]))
                self.check(self.read_published(first), f"{first.name}: {first.waiting[:50]} is before all others")
            waiting.remove(first)
        newest = {life.key[0]: life for life in self.lives}
        sent = doubled = died = 0
        for life in self.lives:
            last = newest[life.key[0]] is life
            mine = self.handled[life.key]
            known = set(mine)
            if last:
                self.check(life.ended, f"{life.name} did not come to its end")
            promised = max(life.acknowledged, life.took) if last or self.durable else life.acknowledged
            missing = [number for number in range(1, promised + 1) if number not in known]
            self.check(not missing, f"{life.name}: promised and not handled: {missing[:10]}")
            sent += life.took
            # What send() had taken and nobody had acknowledged ends with the process: the outbox is in memory.
            died += sum(1 for number in range(1, life.took + 1) if number not in known)
            doubled += len(mine) - len(known)
            if last:
                # Every answer came, or a hole was told.
                unanswered = known - set(life.answers)
                self.check(
                    life.told or not unanswered,
                    f"{life.name}: no gap, and answers to {sorted(unanswered)[:10]} missing",
                )
            self.check(known.issuperset(life.answers), f"{life.name}: answers to what nobody has handled")
            # What is answered twice was handled twice.
            counts, doubles = collections.Counter(life.answers), collections.Counter(mine)
            more = [number for number, count in counts.items() if count > doubles[number]]
            self.check(not more, f"{life.name}: answers {more[:10]} came more often than they were sent")
        check(self.recoveries, "nobody has lost its connection")
        heard = sum(life.heard for life in self.lives)
        self.check(heard or not self.stored, "nobody has heard what was published")
        return (
            f"sent {sent}, handled {self.total}, doubled {doubled}, lost 0, died with their sender {died}, "
            f"gaps told {sum(life.told for life in self.lives)}, "
            + (f"heard {heard} that were published, " if self.stored else "")
            + f"{len(self.lives) - clients} clients and {servers - 1} servers killed, "
            + f"back after {spread(self.recoveries)}, a killed client's successor connected after {spread(self.starts)}"
        )


def spread(times):
    times = sorted(times)
    late = times[min(len(times) - 1, int(len(times) * 0.99))]
    return f"{statistics.median(times) * 1000:.0f} ms (median), {late * 1000:.0f} ms (p99)"


class Scene:
    def __init__(self, shape, judge):
        self.shape = shape
        self.judge = judge
        self.folder = tempfile.mkdtemp(prefix="lifeline-messages-")
        self.stop = os.path.join(self.folder, "stop")
        self.pause = os.path.join(self.folder, "pause")
        self.servers = 0
        self.lives = [0] * shape["clients"]
        self.server = None
        self.address = "ws://127.0.0.1:0"
        self.clients = [None] * shape["clients"]

    def start_server(self):
        self.servers += 1
        log = os.path.join(self.folder, f"server-{self.servers}")
        open(log, "w").close()
        config = {"listen": self.address, "log": log}
        if self.judge.stored:
            config["channel"] = "handled"
            # All that may be under way while a client is away.
            resume = {"count": 100_000, "bytes": 64 << 20}
            config["options"] = {"store": "file://" + os.path.join(self.folder, "store"), "resume": resume}
        self.server = Php("messages_server.php", config)
        self.judge.servers.append((Tail(log), {}))
        # The same port again.
        self.address = self.server.url()

    def start_client(self, number):
        self.lives[number] += 1
        life = self.lives[number]
        config = {
            "url": self.address,
            "client": number,
            "life": life,
            "log": os.path.join(self.folder, f"client-{number}-{life}"),
            "batch": self.shape["batch"],
            "size": 100,
            "stop": self.stop,
            "pause": self.pause,
            "options": dict(FAST),
        }
        if self.judge.durable:
            # What write() has taken survives the process; only a power cut asks for more.
            path = os.path.join(self.folder, f"outbox-{number}")
            config["options"]["outbox"] = {"path": path, "durability": "interval"}
        for log in (config["log"], config["log"] + ".p"):
            open(log, "w").close()
        life = Life(number, life, config["log"])
        self.judge.lives.append(life)
        self.judge.open.append(life)
        self.clients[number] = (Php("messages_client.php", config), life)

    def kill_server(self):
        self.server.kill()
        self.judge.server_died()

    def kill_client(self, number):
        process, life = self.clients[number]
        process.kill()
        self.judge.died(life)

    def hold(self, yes):
        """Nobody sends anything new while the kills are behind; what is under way goes on."""
        if yes:
            open(self.pause, "w").close()
        elif os.path.exists(self.pause):
            os.unlink(self.pause)

    def until(self, done, what):
        """Reads along; fails when nothing is handled any more."""
        before, deadline = None, 0.0
        while True:
            self.judge.read()
            if done():
                return
            now = time.monotonic()
            if self.judge.total != before:
                before, deadline = self.judge.total, now + LIMIT
            self.judge.check(now < deadline, f"{what}: nothing handled for {LIMIT} s, {before} before")
            time.sleep(0.01)


def play(shape, durable=False, stored=False):
    seed = random.SystemRandom().randrange(1 << 32)
    chance = random.Random(seed)
    judge = Judge(seed, durable, stored)
    scene = Scene(shape, judge)
    scene.start_server()
    for number in range(shape["clients"]):
        scene.start_client(number)
    deaths = ["server"] * shape["server"] + [n for n in range(shape["clients"]) for _ in range(shape["each"])]
    chance.shuffle(deaths)
    moments = sorted(chance.uniform(0, shape["messages"]) for _ in deaths)
    for moment, death in zip(moments, deaths):
        scene.hold(judge.total > moment)
        scene.until(lambda moment=moment: judge.total >= moment, "between kills")
        if death == "server":
            scene.kill_server()
            scene.start_server()
        else:
            scene.kill_client(death)
            scene.start_client(death)
    scene.hold(False)
    # Whoever came last has had its say, too.
    scene.until(
        lambda: judge.total >= shape["messages"] and all(life.answers for _, life in scene.clients), "after the last kill"
    )
    open(scene.stop, "w").close()
    scene.until(lambda: all(life.ended for _, life in scene.clients), "at the end")
    for process, _ in scene.clients:
        process.wait()
    scene.kill_server()
    judge.read()
    said = judge.verdict(shape["clients"], scene.servers)
    shutil.rmtree(scene.folder)
    return said


def run(durable, stored=False):
    """Once, or for CHAOS_SECONDS."""
    until = time.monotonic() + float(os.environ.get("CHAOS_SECONDS") or 0)
    while True:
        said = play(LONG if harness.FULL else SMALL, durable, stored)
        if time.monotonic() >= until:
            return said
        print(f"      {said}", flush=True)


def test_kill_9_loses_nothing_that_was_acknowledged(_binary):
    return run(durable=False)


def test_kill_9_loses_nothing_that_an_outbox_on_disk_has_taken(_binary):
    return run(durable=True)


def test_kill_9_makes_no_gap_where_the_server_has_a_store(_binary):
    return run(durable=True, stored=True)
