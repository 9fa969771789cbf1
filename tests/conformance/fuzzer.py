"""Runs Autobahn's fuzzing client or server; for the suite's Python 2.7.

    fuzzer.py plan.json

The plan: mode (client, server), url (client: of the server under test), cases and exclude (patterns),
messages (how many a case of 9.7 and 9.8 sends), outdir (reports), ready (server: a file that gets the
port once it listens). Unlike the suite's own launcher it listens on 127.0.0.1 only, on a free port,
and writes its reports also when it is told to stop. Writes the list of planned cases to
outdir/planned.json.
"""

import json
import os
import sys

from autobahntestsuite import fuzzing
from autobahntestsuite.case import Cases
from twisted.internet import reactor


def main():
    with open(sys.argv[1]) as f:
        plan = json.load(f)
    for case in Cases:
        if case.__name__.startswith(("Case9_7_", "Case9_8_")):
            case.COUNT = plan["messages"]
    spec = {
        "outdir": str(plan["outdir"]),
        "cases": plan["cases"],
        "exclude-cases": plan["exclude"],
        "exclude-agent-cases": {},
    }
    if plan["mode"] == "client":
        spec["servers"] = [{"agent": "lifeline", "url": str(plan["url"])}]
        factory = fuzzing.FuzzingClientFactory(spec)
    else:
        spec["url"] = "ws://127.0.0.1:9001"
        factory = fuzzing.FuzzingServerFactory(spec)
        port = reactor.listenTCP(0, factory, interface="127.0.0.1").getHost().port
        # The port in the Host header is checked against the factory's.
        factory.setSessionParameters(url="ws://127.0.0.1:%d" % port)
    reactor.addSystemEventTrigger("before", "shutdown", factory.createReports)
    with open(os.path.join(plan["outdir"], "planned.json"), "w") as f:
        json.dump(factory.specCases, f)
    if plan["mode"] == "server":
        with open(plan["ready"] + ".new", "w") as f:
            f.write("%d\n" % port)
        os.rename(plan["ready"] + ".new", plan["ready"])
    reactor.run()


main()
