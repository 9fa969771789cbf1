"""Runs Autobahn's fuzzing client or server; for the suite's Python 2.7.

    fuzzer.py plan.json

The plan: mode (client, server), url (client: of the server under test), cases and exclude (patterns),
messages (how many each case sends that sends many: 9.7, 9.8, 12 and 13; 1000 in the suite), cert and
key (server: wss with these, else null), outdir (reports), ready (server: a file that gets the port once
it listens). Unlike the suite's own launcher it listens on 127.0.0.1 only, on a free port, and writes its
reports also when it is told to stop. Writes the list of planned cases to outdir/planned.json.
"""

import json
import os
import sys

from autobahntestsuite import fuzzing
from autobahntestsuite.case import Cases
from twisted.internet import reactor, ssl


def main():
    with open(sys.argv[1]) as f:
        plan = json.load(f)
    for case in Cases:
        if hasattr(case, "COUNT"):
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
        scheme = "wss" if plan["cert"] else "ws"
        spec["url"] = "%s://127.0.0.1:9001" % scheme
        factory = fuzzing.FuzzingServerFactory(spec)
        if plan["cert"]:
            tls = ssl.DefaultOpenSSLContextFactory(str(plan["key"]), str(plan["cert"]))
            listener = reactor.listenSSL(0, factory, tls, interface="127.0.0.1")
        else:
            listener = reactor.listenTCP(0, factory, interface="127.0.0.1")
        port = listener.getHost().port
        # The port in the Host header is checked against the factory's.
        factory.setSessionParameters(url="%s://127.0.0.1:%d" % (scheme, port))
    reactor.addSystemEventTrigger("before", "shutdown", factory.createReports)
    with open(os.path.join(plan["outdir"], "planned.json"), "w") as f:
        json.dump(factory.specCases, f)
    if plan["mode"] == "server":
        with open(plan["ready"] + ".new", "w") as f:
            f.write("%d\n" % port)
        os.rename(plan["ready"] + ".new", plan["ready"])
    reactor.run()


main()
