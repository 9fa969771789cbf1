"""Links that die without a word: both ends must find out by themselves, in time."""

import os
import shutil
import signal
import subprocess
import time

from harness import SLACK, Control, Load, Proxy, Skip, check, client, equal, host_port, server

INTERVAL = 1
TIMEOUT = 1
BOUND = INTERVAL + TIMEOUT
BEATS = {"interval": INTERVAL, "timeout": TIMEOUT}
PEERS = 50


def found_by_server(php, count, since, code=4001):
    """The server reported `count` dead links in time; returns the slowest."""
    closes = php.wait_event("close", count=count, timeout=SLACK * BOUND)
    equal(len(closes), count, "connections closed")
    equal({(close["code"], close["clean"]) for close in closes}, {(code, False)}, "how they were closed")
    slowest = max(close["t"] for close in closes) - since
    check(slowest <= SLACK * BOUND, f"found after {slowest:.2f} s")
    return slowest


def found_by_client(php, since):
    lost = php.wait_event("state", timeout=SLACK * BOUND, to="Reconnecting")[0]
    equal(lost["code"], 4001, f"code of {lost}")
    close = php.wait_event("close")[0]
    equal((close["code"], close["clean"]), (4001, False), "how the client was told")
    slow = lost["t"] - since
    check(slow <= SLACK * BOUND, f"found after {slow:.2f} s")
    return slow


def connected_client(url, prefix=(), **config):
    options = {"heartbeat": BEATS, "outbox": {"overflow": "dropOldest"}, **config.pop("options", {})}
    php = client(url=url, options=options, prefix=prefix, **config)
    php.wait_event("state", to="Connected")
    return php


def test_frozen_peers(binary):
    php = server(options={"heartbeat": BEATS})
    peers = Load(binary, "hold", "--url", php.url(), "--peers", f"answer={PEERS}", "--secs", 600)
    peers.wait_ready()
    php.wait_event("open", count=PEERS)
    # Longer than it takes to find a dead link: the living are kept.
    time.sleep(BOUND * 1.5)
    equal(php.events("close"), [], "closed while the peers lived")
    since = time.time()
    peers.signal(signal.SIGSTOP)
    return f"{PEERS} found, the slowest after {found_by_server(php, PEERS, since):.2f} s"


def test_frozen_server(binary):
    php = server(options={"heartbeat": BEATS})
    peer = connected_client(php.url())
    time.sleep(BOUND * 1.5)
    equal(peer.events("close"), [], "closed while the server lived")
    since = time.time()
    php.signal(signal.SIGSTOP)
    slow = found_by_client(peer, since)
    php.signal(signal.SIGCONT)
    peer.wait_event("state", count=2, to="Connected")
    equal(php.events("double"), [], "the client came back while its old connection was open")
    return f"found after {slow:.2f} s, back after the thaw"


def behind_proxy(binary):
    php = server(options={"heartbeat": BEATS})
    proxy = Proxy(binary, host_port(php.url()))
    peer = connected_client(f"ws://{proxy.address}/")
    php.wait_event("open")
    return php, proxy, peer


def back_again(php, proxy, peer):
    proxy.command("resume")
    peer.wait_event("state", count=2, to="Connected")
    php.wait_event("open", count=2)
    equal(len(php.wait_event("close", count=1)), 1, "connections closed")


def test_sleep_is_noticed(binary):
    """Who slept probes the link on waking, long before the next beat is due."""
    beats = {"interval": 300, "timeout": 300}
    php = server(options={"heartbeat": beats})
    proxy = Proxy(binary, host_port(php.url()))
    peer = connected_client(f"ws://{proxy.address}/", options={"heartbeat": beats})
    php.wait_event("open")
    peer.signal(signal.SIGSTOP)
    proxy.command("blackhole both")
    # More than three seconds late is a sleep.
    time.sleep(5)
    since = time.time()
    peer.signal(signal.SIGCONT)
    lost = peer.wait_event("state", timeout=60, to="Reconnecting")[0]
    equal(lost["code"], 4001, f"code of {lost}")
    return f"found {lost['t'] - since:.2f} s after waking"


def test_blackhole_both_ways(binary):
    php, proxy, peer = behind_proxy(binary)
    since = time.time()
    proxy.command("blackhole both")
    by_client = found_by_client(peer, since)
    by_server = found_by_server(php, 1, since)
    back_again(php, proxy, peer)
    return f"server after {by_server:.2f} s, client after {by_client:.2f} s"


def test_blackhole_from_client(binary):
    """Only the server has a reason to think that the link is dead; its reset tells the client."""
    php, proxy, peer = behind_proxy(binary)
    since = time.time()
    proxy.command("blackhole up")
    by_server = found_by_server(php, 1, since)
    peer.wait_event("state", to="Reconnecting")
    back_again(php, proxy, peer)
    return f"server after {by_server:.2f} s"


def test_blackhole_from_server(binary):
    """Only the client has a reason to think that the link is dead; its reset tells the server."""
    php, proxy, peer = behind_proxy(binary)
    since = time.time()
    proxy.command("blackhole down")
    by_client = found_by_client(peer, since)
    php.wait_event("close")
    back_again(php, proxy, peer)
    return f"client after {by_client:.2f} s"


def test_stuck_writes_of_server(binary):
    """The peer goes on talking but takes nothing: only the write side shows the death."""
    php = server(echo=False, options={"heartbeat": BEATS, "send": {"limit": 512 * 1024 * 1024}})
    url = php.url()
    proxy = Proxy(binary, host_port(url), "--buffer", "16384")
    peers = Load(
        binary, "hold", "--url", f"ws://{proxy.address}/?news", "--peers", "flood=1", "--secs", 600,
        "--size", 100, "--rate", 2000,
    )
    peers.wait_ready()
    control = Control(url)
    proxy.command("stall down")
    since = time.time()
    control.order("publish 0.02 1000000 20")
    slow = found_by_server(php, 1, since)
    control.close()
    return f"found after {slow:.2f} s"


def test_stuck_writes_of_client(binary):
    php = server(echo=False, options={"heartbeat": {"mode": "off"}})
    url = php.url()
    proxy = Proxy(binary, host_port(url), "--buffer", "16384")
    peer = connected_client(f"ws://{proxy.address}/", query="&news", sendEvery=0.02, sendSize=500_000)
    control = Control(url)
    control.order("publish 0.1 100 1000000")
    php.wait_event("publishing")
    proxy.command("stall up")
    since = time.time()
    slow = found_by_client(peer, since)
    control.close()
    return f"found after {slow:.2f} s"


class Namespaces:
    """Two network namespaces joined by a veth pair, 10.99.0.1 and 10.99.0.2."""

    def __init__(self):
        if os.geteuid() != 0:
            raise Skip("needs root")
        if shutil.which("ip") is None:
            raise Skip("needs ip of iproute2")
        tag = f"ll{os.getpid()}"
        self.names = [f"{tag}a", f"{tag}b"]
        self.ends = [f"v{tag}a", f"v{tag}b"]

    def __enter__(self):
        try:
            for name in self.names:
                self.ip("netns", "add", name)
                self.ip("netns", "exec", name, "true")
            self.ip("link", "add", self.ends[0], "netns", self.names[0], "type", "veth", "peer", "name", self.ends[1], "netns", self.names[1])
            for number, (name, end) in enumerate(zip(self.names, self.ends), 1):
                self.ip("-n", name, "addr", "add", f"10.99.0.{number}/24", "dev", end)
                self.ip("-n", name, "link", "set", end, "up")
                self.ip("-n", name, "link", "set", "lo", "up")
        except subprocess.CalledProcessError as error:
            self.__exit__()
            raise Skip(f"no network namespaces here: {error.stderr.strip()}") from None
        return self

    def __exit__(self, *_):
        for name in self.names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True)

    @staticmethod
    def ip(*words):
        subprocess.run(["ip", *words], check=True, capture_output=True, text=True)

    def within(self, number):
        return ("ip", "netns", "exec", self.names[number])

    def cut(self):
        self.ip("-n", self.names[1], "link", "set", self.ends[1], "down")

    def mend(self):
        self.ip("-n", self.names[1], "link", "set", self.ends[1], "up")


def test_link_taken_down(binary):
    with Namespaces() as spaces:
        php = server(listen="ws://10.99.0.1:0", options={"heartbeat": BEATS}, prefix=spaces.within(0))
        url = php.url()
        peer = connected_client(f"{url}/", prefix=spaces.within(1), options={"reconnect": {"max": 1}})
        peers = Load(binary, "hold", "--url", url, "--peers", f"answer={PEERS}", "--secs", 600, prefix=spaces.within(1))
        peers.wait_ready()
        php.wait_event("open", count=PEERS + 1)
        since = time.time()
        spaces.cut()
        by_client = found_by_client(peer, since)
        by_server = found_by_server(php, PEERS + 1, since)
        spaces.mend()
        peer.wait_event("state", count=2, to="Connected")
        result = f"server after {by_server:.2f} s ({PEERS + 1} links), client after {by_client:.2f} s, back when mended"
        for process in (php, peer, peers):
            process.kill()
    return result
