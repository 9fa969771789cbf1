"""Connections go from worker to worker, and the clients must not notice."""

import os
import random
import signal
import time

import harness
from gateway import Crowd, Gateway, all_open, is_there, pids, serving
from harness import LIMIT, check, equal

SHORT = {"clients": 500, "processes": 1, "every": 0.2, "reloads": 3, "kills": 3}
LONG = {"clients": 10_000, "processes": 3, "every": 2, "reloads": 20, "kills": 20}


def test_reload_and_kill(binary):
    form = LONG if harness.FULL else SHORT
    gateway = Gateway(2, work=50)
    gateway.wait_serving()
    crowd = Crowd(binary, gateway, form["clients"], form["processes"], every=form["every"])
    crowd.flow()
    for _ in range(form["reloads"]):
        told = gateway.reload()
        crowd.flow(0.5)
    equal(told["lost"], 0, "lost on reload")
    check(told["moved"] >= form["reloads"] * form["clients"], f"{told['moved']} moved in {form['reloads']} reloads")
    after = crowd.count()
    equal((after["closes"], after["reordered"], after["lost"]), (0, 0, 0), f"closes, reordered, lost on reload ({after})")

    seed = random.randrange(1 << 32)
    chance = random.Random(seed)
    for number in range(form["kills"]):
        # One that has served for a while is followed at once; this is no test of crash loops.
        told = gateway.wait(lambda told: not harness.FULL or all(one["uptime"] > 6 for one in told["list"]), "seasoned workers")
        # One that was started after a death has none until new clients come.
        victims = [chance.choice([one["pid"] for one in told["list"] if one["state"] == "serving" and one["connections"]])]
        if number == form["kills"] - 1:
            # All that there are.
            victims = serving(gateway.workers())
        if number % 2:
            # It has messages in its hands for certain.
            waiting = crowd.count()["waiting"]
            for victim in victims:
                os.kill(victim, signal.SIGSTOP)
            crowd.wait(lambda told: told["waiting"] > waiting + form["clients"] // 10, "with a stopped worker waited for")
        for victim in victims:
            os.kill(victim, signal.SIGKILL)
        told = gateway.wait(lambda told: not pids(told) & set(victims) and len(serving(told)) == 2, "two new workers")
        crowd.flow(0.5)
    equal(told["crashes"], form["kills"] + 1, f"crashes (seed {seed})")
    report = crowd.end()
    counted = gateway.workers()["lost"]
    equal(report["lost"], counted, f"lost as the clients know it, and as it was counted (seed {seed}; {report})")
    check(counted > 0, "nothing was lost: nobody had messages in hand")
    return (
        f"{form['clients']} clients in {form['processes']} processes, {form['reloads']} reloads, {form['kills']} kills: "
        f"{report['sent']} messages, 0 closes, 0 reordered, 0 lost on reload, {counted} on kills, as counted; "
        f"{told['moved']} moves, the longest wait for an answer {report['worst_ms'] / 1e3:.2f} s"
    )


def test_a_death_of_each_kind(binary):
    """exit(), a fatal error, a segmentation fault: the connection stays, and another worker gets it as resumed."""
    gateway = Gateway(2)
    gateway.wait_serving()
    clients = gateway.clients(8)
    crashes = 0
    for how in ("exit", "fatal", "segfault"):
        before = [client.who() for client in clients]
        victim = before[0]["pid"]
        if how == "segfault":
            os.kill(victim, signal.SIGSEGV)
        else:
            clients[0].order(how)
        crashes += 1
        gateway.wait_serving(crashes=crashes)
        for client, was in zip(clients, before):
            now = client.who()
            if was["pid"] == victim:
                check(now["pid"] != victim and now["resumed"] and now["handled"] == 1, f"{was} became {now}")
            else:
                equal((now["pid"], now["handled"]), (was["pid"], was["handled"] + 1), "who was not concerned")
        all_open(clients)
    # The orders themselves: what was in hand.
    equal(gateway.workers()["lost"], 2, "lost")
    return f"{crashes} deaths, {len(clients)} clients stay"


def test_recycled(binary):
    """maxRequests and maxMemory replace workers, and no client notices."""
    gateway = Gateway({"count": 2, "maxRequests": 300})
    crowd = Crowd(binary, gateway, 50, every=0.02)
    told = gateway.wait(lambda told: told["recycled"] >= 4, "four recycled workers")
    crowd.flow()
    report = crowd.end()
    told = gateway.workers()
    equal((report["lost"], told["lost"], told["crashes"]), (0, 0, 0), f"lost, counted as lost, crashes ({told})")
    # Each had its share before it went.
    allowed = report["sent"] / 270 + gateway.count
    check(told["recycled"] <= allowed, f"{told['recycled']} recycled for {report['sent']} messages")

    hungry = Gateway({"count": 2, "maxMemory": 512 << 20})
    hungry.wait_serving()
    clients = hungry.clients(6)
    before = [client.who() for client in clients]
    clients[0].order(f"eat {600 << 20}")
    equal(clients[0].hear("answer to eat"), "eaten", "answer")
    after = hungry.wait_serving(recycled=1)
    check(before[0]["pid"] not in pids(after), f"the one that has eaten is there: {after}")
    for client, was in zip(clients, before):
        now = client.who()
        equal(now["pid"] != was["pid"], was["pid"] == before[0]["pid"], f"moved: {was} became {now}")
    all_open(clients)
    equal((after["lost"], after["crashes"]), (0, 0), "lost, crashes")
    return f"{told['recycled']} recycled in {report['sent']} messages, one for its memory"


def test_the_end_of_the_gateway(binary):
    """stop() ends the workers, and so does the gateway's death."""
    gateway = Gateway(2)
    workers = pids(gateway.wait_serving())
    clients = gateway.clients(4)
    gateway.php.signal(signal.SIGTERM)
    equal(gateway.php.wait(), 0, f"exit of the gateway ({gateway.php.describe()})")
    check(not any(map(is_there, workers)), "workers outlive the gateway")
    check(all(client.ended and client.ended.startswith("close b'\\x03\\xe9") for client in clients), f"{[client.ended for client in clients]}, wanted 1001")

    gateway = Gateway(2)
    workers = pids(gateway.wait_serving())
    gateway.php.kill()
    deadline = time.monotonic() + LIMIT
    while any(map(is_there, workers)):
        check(time.monotonic() < deadline, "workers outlive a killed gateway")
        time.sleep(0.02)
    return "none outlives it, drained or killed"
