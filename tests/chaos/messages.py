"""Messages over kill -9: client and server processes die at random, and nothing acknowledged is lost, nor anything
that an outbox on disk has taken; with a store on disk nothing that the server has sent or published."""

import collections
import os
import random
import shutil
import statistics
import tempfile
import time

import harness
from harness import Php, check

# What dies and how often: clients, kills of each, kills of the server, messages each 5 ms, seconds between kills.
SMALL = {"clients": 4, "each": 3, "server": 3, "batch": 4, "pause": 0.15}
LONG = {"clients": 20, "each": 200, "server": 60, "batch": 8, "pause": 0.02}

FAST = {"reconnect": {"base": 0.05, "max": 0.5, "floor": 0.01}}


class Scene:
    def __init__(self, shape, durable, stored):
        self.shape = shape
        self.durable = durable
        self.stored = stored
        self.folder = tempfile.mkdtemp(prefix="lifeline-messages-")
        self.stop = os.path.join(self.folder, "stop")
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
        if self.stored:
            config["channel"] = "handled"
            # All that may be under way while a client is away.
            resume = {"count": 100_000, "bytes": 64 << 20}
            config["options"] = {"store": "file://" + os.path.join(self.folder, "store"), "resume": resume}
        self.server = Php("messages_server.php", config)
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
            "options": dict(FAST),
        }
        if self.durable:
            # What write() has taken survives the process; only a power cut asks for more.
            path = os.path.join(self.folder, f"outbox-{number}")
            config["options"]["outbox"] = {"path": path, "durability": "interval"}
        open(config["log"], "w").close()
        self.clients[number] = Php("messages_client.php", config)

    def lines(self, name):
        with open(os.path.join(self.folder, name)) as file:
            text = file.read()
        # Whoever is killed may leave half a line.
        return [line.split(" ") for line in text[: text.rfind("\n") + 1].splitlines()]


def play(shape, durable=False, stored=False):
    seed = random.SystemRandom().randrange(1 << 32)
    chance = random.Random(seed)
    scene = Scene(shape, durable, stored)
    scene.start_server()
    for number in range(shape["clients"]):
        scene.start_client(number)
    deaths = ["server"] * shape["server"] + [n for n in range(shape["clients"]) for _ in range(shape["each"])]
    chance.shuffle(deaths)
    for death in deaths:
        time.sleep(chance.uniform(0.5, 1.5) * shape["pause"])
        if death == "server":
            scene.server.kill()
            scene.start_server()
        else:
            scene.clients[death].kill()
            scene.start_client(death)
    time.sleep(1)
    open(scene.stop, "w").close()
    for process in scene.clients:
        process.wait()
    scene.server.kill()
    return scene, seed


def judge(scene, seed):
    handled = collections.defaultdict(list)
    for server in range(1, scene.servers + 1):
        last = {}
        for client, life, number, _ in scene.lines(f"server-{server}"):
            who, number = (int(client), int(life)), int(number)
            # One server's memory is enough for order, and for once.
            check(
                last.get(who, 0) < number,
                f"seed {seed}: server {server} handled {number} of client {who} behind {last.get(who)}",
            )
            last[who] = number
            handled[who].append(number)
    sent = doubled = lost = gaps = died = heard = 0
    recoveries = []
    # What each offset of the channel has.
    published = {}
    for client, lives in enumerate(scene.lives):
        for life in range(1, lives + 1):
            took = acknowledged = 0
            answers = []
            offsets = []
            closed = None
            ended = False
            told = 0
            for word, *rest in scene.lines(f"client-{client}-{life}"):
                if word == "s":
                    took = int(rest[0])
                elif word == "a":
                    acknowledged = int(rest[0])
                elif word == "r":
                    answers.append(int(rest[0]))
                elif word == "p":
                    offset, said = int(rest[0]), rest[1:]
                    offsets.append(offset)
                    check(
                        published.setdefault(offset, said) == said,
                        f"seed {seed}: offset {offset} has {published[offset]} and, for client {client}.{life}, {said}",
                    )
                elif word == "g":
                    told += 1
                    # Of a session that was made anew there is nothing to miss.
                    check(not scene.stored, f"seed {seed}: client {client}.{life} was told of a gap: {rest}")
                elif word == "c":
                    closed = float(rest[0])
                elif word == "o" and closed is not None:
                    recoveries.append(float(rest[0]) - closed)
                    closed = None
                elif word == "end":
                    ended = True
            mine = handled[(client, life)]
            known = set(mine)
            if life == lives:
                check(ended, f"seed {seed}: client {client} did not come to its end")
            if life == lives or scene.durable:
                acknowledged = max(acknowledged, took)
            missing = [number for number in range(1, acknowledged + 1) if number not in known]
            check(not missing, f"seed {seed}: client {client}.{life}: promised and not handled: {missing[:10]}")
            lost += len(missing)
            sent += took
            # What send() had taken and nobody had acknowledged ends with the process: the outbox is in memory.
            died += sum(1 for number in range(1, took + 1) if number not in known)
            gaps += told
            doubled += len(mine) - len(known)
            if life == lives:
                # Every answer came, or a hole was told.
                check(
                    told or set(answers) == known,
                    f"seed {seed}: client {client}.{life}: no gap, and answers to {sorted(known - set(answers))[:10]} missing",
                )
            heard += len(offsets)
            holes = [(a, b) for a, b in zip(offsets, offsets[1:]) if b != a + 1]
            check(not holes, f"seed {seed}: client {client}.{life} misses what was published between {holes[:5]}")
            # What is answered twice was handled twice.
            counts, doubles = collections.Counter(answers), collections.Counter(mine)
            more = [number for number, count in counts.items() if count > doubles[number]]
            check(not more, f"seed {seed}: client {client}.{life}: answers {more[:10]} came more often than they were sent")
    recoveries.sort()
    check(recoveries, "nobody has lost its connection")
    total = sum(len(numbers) for numbers in handled.values())
    late = recoveries[min(len(recoveries) - 1, int(len(recoveries) * 0.99))]
    return (
        f"sent {sent}, handled {total}, doubled {doubled}, lost {lost}, died with their sender {died}, gaps told {gaps}, "
        + (f"heard {heard} that were published, " if scene.stored else "")
        + f"{sum(scene.lives) - len(scene.lives)} clients and {scene.servers - 1} servers killed, "
        + f"back after {statistics.median(recoveries) * 1000:.0f} ms (median), {late * 1000:.0f} ms (p99)"
    )


def run(durable, stored=False):
    scene, seed = play(LONG if harness.FULL else SMALL, durable, stored)
    said = judge(scene, seed)
    shutil.rmtree(scene.folder)
    return said


def test_kill_9_loses_nothing_that_was_acknowledged(_binary):
    return run(durable=False)


def test_kill_9_loses_nothing_that_an_outbox_on_disk_has_taken(_binary):
    return run(durable=True)


def test_kill_9_makes_no_gap_where_the_server_has_a_store(_binary):
    return run(durable=True, stored=True)
