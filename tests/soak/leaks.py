"""Server and client under valgrind: no invalid access, nothing lost at the end."""

import os
import shutil
import tempfile

from harness import LIMIT, Control, Load, Php, Proxy, Skip, check, equal, host_port, server

HERE = os.path.dirname(os.path.abspath(__file__))
# How much slower everything is.
SLOWER = 10


class Watched:
    """One of the PHP scripts under valgrind."""

    def __init__(self, script, **config):
        if shutil.which("valgrind") is None:
            raise Skip("needs valgrind")
        self.log = tempfile.NamedTemporaryFile(prefix="lifeline-valgrind-", suffix=".log")
        prefix = (
            "valgrind", "-q", "--undef-value-errors=no", "--leak-check=full", "--show-leak-kinds=definite,indirect",
            "--errors-for-leak-kinds=definite,indirect", "--num-callers=30", "--error-exitcode=99",
            f"--suppressions={os.path.join(HERE, 'valgrind.supp')}", f"--log-file={self.log.name}",
        )
        # No errors of undefined values: optimised Rust reads the payload of an enum beside its tag, and
        # judges the tag afterwards.
        # Zend's allocator would hide what is freed too late or never; compiled patterns look uninitialised.
        self.php = Php(script, config, prefix, ("pcre.jit=0",), {"USE_ZEND_ALLOC": "0", "RUST_BACKTRACE": "0"})

    def verdict(self):
        code = self.php.wait(LIMIT * SLOWER)
        with open(self.log.name) as log:
            found = log.read()
        check(not found, "valgrind found:\n" + "\n".join(found.splitlines()[:80]))
        equal(code, 0, f"exit code of {self.php.describe()}")


def test_server(binary):
    watched = Watched("server.php", options={"heartbeat": {"interval": 2, "timeout": 2}})
    php = watched.php
    url = php.wait_event("listening", timeout=LIMIT * SLOWER)[0]["address"]
    for words in (
        ("echo", "--conns", 4, "--messages", 100, "--size", 200, "--text", "--timeout", LIMIT * SLOWER),
        ("echo", "--conns", 2, "--messages", 10, "--size", 500_000, "--window", 2, "--timeout", LIMIT * SLOWER),
        ("churn", "--connects", 50, "--concurrency", 8, "--ending", "close"),
        ("churn", "--connects", 50, "--concurrency", 8, "--ending", "fin"),
        ("churn", "--connects", 50, "--concurrency", 8, "--ending", "reset"),
    ):
        report = Load(binary, words[0], "--url", url, *words[1:]).report(LIMIT * SLOWER)
        check("error" not in report and not report.get("failed"), f"{words}: {report}")
    crowd = Load(
        binary, "hold", "--url", f"{url}/?news", "--peers", "ping=3,answer=3,silent=3,deaf=3,flood=3,half=3",
        "--secs", 3600, "--size", 1000, "--rate", 10_000,
    )
    crowd.wait_ready()
    control = Control(url)
    control.order("publish 0.01 1000 50")
    php.wait_event("published", timeout=LIMIT * SLOWER)
    control.order("each 0.01 5000 20")
    php.wait_event("published", count=2, timeout=LIMIT * SLOWER)
    php.wait_event("close", count=3, code=4001, timeout=LIMIT * SLOWER)
    thrower = Control(url)
    thrower.order("throw")
    equal(php.wait_event("error", timeout=LIMIT * SLOWER)[0]["message"], "as ordered", "the exception")
    control.order("stop 0.5")
    php.wait_event("stopped", timeout=LIMIT * SLOWER)
    watched.verdict()
    return f"{len(php.events('open'))} connections"


def test_client(binary):
    php = server()
    proxy = Proxy(binary, host_port(php.url()))
    watched = Watched(
        "client.php", url=f"ws://{proxy.address}/", count=3, closeAfter=12, sendEvery=0.05, sendSize=3000,
        options={"heartbeat": {"interval": 2, "timeout": 2}, "outbox": {"overflow": "dropOldest"}},
    )
    peer = watched.php
    peer.wait_event("state", count=3, timeout=LIMIT * SLOWER, to="Connected")
    for times, command in enumerate(("cut", "close", "cut"), 2):
        proxy.command(command)
        peer.wait_event("state", count=3 * times, timeout=LIMIT * SLOWER, to="Connected")
    peer.wait_event("ended", timeout=LIMIT * SLOWER)
    watched.verdict()
    return f"{len(peer.events('state', to='Connected'))} times connected"
