"""PHP is blocked for seconds; the connections must not notice."""

import time

from harness import LIMIT, SLACK, Control, Load, Proxy, check, client, equal, host_port, http_status, server

INTERVAL = 1
TIMEOUT = 1
LAG = 3
BLOCKED = 10
INBOUND = 64 * 1024
CROWD = {"ping": 325, "answer": 325, "flood": 50}
SILENT = 300


def blocked(binary, how):
    php = server(
        echo=False,
        options={
            "heartbeat": {"interval": INTERVAL, "timeout": TIMEOUT},
            "limits": {"inbound": INBOUND},
            "watchdog": {"lag": LAG, "action": "unready"},
            "admin": "127.0.0.1:0",
        },
    )
    url = php.url()
    crowd = ",".join(f"{kind}={count}" for kind, count in CROWD.items())
    # Ended by the end of its stdin, once PHP is back.
    held = Load(
        binary, "hold", "--url", url, "--peers", crowd, "--secs", LIMIT, "--every", 0.5,
        "--size", 16 * 1024, "--rate", 1024 * 1024, "--until-eof", stdin=True,
    )
    held.wait_ready()
    control = Control(url)
    control.order("stats")
    admin = php.wait_event("stats")[0]["stats"]["admin"]
    equal(http_status(admin, "/readyz"), 200, "readyz before")
    control.order(f"{how} {BLOCKED}")
    start = php.wait_event("blocked")[0]["t"]
    # These come while PHP is away: accepted, beaten and dropped without it.
    silent = Load(binary, "hold", "--url", url, "--peers", f"silent={SILENT}", "--secs", BLOCKED - 2)
    silent.wait_ready()
    while http_status(admin, "/readyz") != 503:
        check(not php.events("unblocked"), "the watchdog saw nothing while PHP was blocked")
        time.sleep(0.1)
    check(time.time() >= start + LAG * 0.9, "the watchdog was too early")
    equal(http_status(admin, "/healthz"), 200, "healthz with PHP blocked")

    silent = silent.report()["kinds"]["silent"]
    equal(silent["alive"], 0, "silent peers alive")
    dropped = max(entry["last"] for entry in silent["closed"])
    check(dropped <= SLACK * (INTERVAL + TIMEOUT), f"the last silent peer was dropped after {dropped:.2f} s")
    check(not php.events("unblocked"), "PHP came back too early for this test")

    php.wait_event("unblocked")
    closes = php.wait_event("close", count=SILENT)
    held.child.stdin.close()
    held = held.report()
    check(held["seconds"] >= BLOCKED, f"held for {held['seconds']} s only")
    kinds = held["kinds"]
    for kind, count in CROWD.items():
        equal(kinds[kind]["alive"], count, f"{kind} peers alive; closed: {kinds[kind]['closed']}")
    gap = kinds["answer"]["beats"]["worst_gap"]
    check(kinds["answer"]["beats"]["count"] >= CROWD["answer"] * BLOCKED / INTERVAL / 2, f"few beats: {kinds['answer']}")
    check(gap <= SLACK * (INTERVAL + TIMEOUT), f"worst gap between beats {gap:.2f} s")
    delay = kinds["ping"]["pongs"]["worst_delay"]
    check(delay <= SLACK * TIMEOUT, f"worst pong delay {delay:.2f} s")
    flood = kinds["flood"]["bytes_sent"] / CROWD["flood"]
    check(flood > 2 * INBOUND, f"each flood sent {flood:.0f} bytes only")

    equal({(close["code"], close["clean"]) for close in closes}, {(4001, False)}, "how the silent ones were closed")
    equal(len(closes), SILENT, "connections closed")
    equal(php.events("error"), [], "errors")
    lines = [event["message"] for event in php.wait_event("log", where=lambda event: "dispatch" in event["message"])]
    check(lines, "the watchdog logged nothing")
    deadline = time.monotonic() + LIMIT
    while http_status(admin, "/readyz") != 200:
        check(time.monotonic() < deadline, "not ready again after PHP came back")
        time.sleep(0.1)
    total = sum(CROWD.values()) + SILENT
    return f"{total} connections; worst gap between beats {gap:.2f} s, worst pong delay {delay:.3f} s, silent ones gone after {dropped:.2f} s"


def test_sleeping_callback(binary):
    return blocked(binary, "sleep")


def test_burning_callback(binary):
    return blocked(binary, "burn")


def test_blocked_client(binary):
    """A client whose PHP sleeps answers, notices a cut and comes back."""
    beats = {"interval": INTERVAL, "timeout": TIMEOUT}
    php = server(options={"heartbeat": beats})
    proxy = Proxy(binary, host_port(php.url()))
    peer = client(url=f"ws://{proxy.address}/", options={"heartbeat": beats}, sleep=BLOCKED)
    start = peer.wait_event("blocked")[0]["t"]
    php.wait_event("open", count=1)
    # Longer than a client that does not answer would be kept.
    while time.time() < start + SLACK * (INTERVAL + TIMEOUT):
        time.sleep(0.1)
    equal(php.events("close"), [], "closed while PHP slept")
    proxy.command("cut")
    opens = php.wait_event("open", count=2)
    check(not peer.events("unblocked"), "PHP came back too early for this test")
    equal(len(php.wait_event("close")), 1, "connections closed")
    peer.wait_event("unblocked")
    peer.wait_event("state", count=2, to="Connected")
    equal((len(php.events("open")), len(php.events("close"))), (2, 1), "opens and closes at the end")
    return f"cut and back {opens[1]['t'] - start:.1f} s into a sleep of {BLOCKED} s"
