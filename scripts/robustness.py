"""Prints docs/robustness.md from the logs of scripts/robustness.sh.

    robustness.py LOGS MODULE PHP
"""

import datetime
import os
import platform
import re
import subprocess
import sys

LOGS, MODULE, PHP = sys.argv[1:4]
ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

PARTS = {
    "conformance": ("Conformance", "Autobahn, both roles: `make conformance`; reduced: `tests/conformance/run`."),
    "fuzz": ("Fuzzing", "`make fuzz`; libFuzzer on what reads the network."),
    "unsafe": ("Unsafe code", "`scripts/unsafe.sh`: blocks, by file, each with its reason."),
    "soak": ("Soak", "`tests/soak/run`: memory, descriptors and threads under load that lasts, and valgrind."),
}


def output(*command):
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True).stdout.strip()


def anonymous(text):
    """Without this machine's paths."""
    return text.replace(ROOT + "/", "").replace(ROOT, ".").replace(os.path.expanduser("~"), "~")


def read(name):
    """Lines of the part's log, its exit status, seconds, and whether it was the full form; None: it did not run."""
    try:
        with open(os.path.join(LOGS, f"{name}.log"), errors="replace") as file:
            lines = [anonymous(line.rstrip()) for line in file]
        with open(os.path.join(LOGS, f"{name}.status")) as file:
            status, seconds, *full = file.read().split()
    except FileNotFoundError:
        return None
    return lines, int(status), int(seconds), bool(full)


def machine():
    memory = next(int(line.split()[1]) for line in open("/proc/meminfo") if line.startswith("MemTotal"))
    php = output(PHP, "-n", "-r", 'echo PHP_VERSION, PHP_ZTS ? " ZTS" : " NTS", PHP_DEBUG ? " debug" : "";')
    # Only an unoptimised build has so much to say of its own.
    build = "dev" if os.path.getsize(MODULE) > 30_000_000 else "release"
    load = os.getloadavg()[1] / os.cpu_count()
    busy = "idle otherwise" if load < 1.5 else f"busy with other work (load {load:.0f} a core at the end)"
    return (
        f"{os.cpu_count()} cores, {memory // 1024 // 1024 + 1} GiB, {busy}, {platform.system()} {platform.release().split('-')[0]} "
        f"{platform.machine()}, PHP {php}, a {build} build of the extension"
    )


def cell(text):
    return text.replace("|", "\\|").strip()


def abuse_rows(lines):
    """(name, outcome, seconds, what happened, peak, growth, cpu, neighbours) of each test."""
    for line in lines:
        match = re.match(r"(ok|FAIL|skip) +(\S+?):? (?:\(([\d.]+) s\):? )?(.*)", line)
        if not match:
            continue
        outcome, name, seconds, rest = match.groups()
        for piece in rest.split(" || "):
            peak = re.search(r"peak ([\d.]+ MiB)", piece)
            growth = re.search(r"([\d.]+) more than before \(allowed (\d+)\)", piece)
            cpu = re.search(r"CPU ([\d.]+ s) of ([\d.]+ s)", piece)
            near = re.search(r"(\d+) neighbours: (\d+) echo round trips, lost: (\d+), closes: (\d+), (\d+) beats, unanswered: (\d+)", piece)
            what = re.split(r"; peak [\d.]+ MiB", piece)[0]
            yield (
                name, outcome, seconds or "", what, peak.group(1) if peak else "",
                f"{growth.group(1)} of {growth.group(2)} MiB" if growth else "", cpu.group(1) if cpu else "",
                f"{near.group(2)} / {near.group(3)}, {near.group(4)}, {near.group(5)} / {near.group(6)}" if near else "",
            )


def form(full):
    return "in full size" if full else "in the reduced form of `make test`"


def main():
    print("# Robustness\n")
    print("Written by `make robustness` (`FULL=1` for the real sizes); do not edit. What is promised, and what is not, is in")
    print("[SECURITY.md](../SECURITY.md).\n")
    changed = " and changes" if output("git", "status", "--porcelain", "--untracked-files=no") else ""
    now = datetime.datetime.now(datetime.timezone.utc)
    print(f"{now:%Y-%m-%d}, commit {output('git', 'rev-parse', '--short=12', 'HEAD')}{changed}; {machine()}.\n")

    print("## Abuse\n")
    got = read("abuse")
    if got is None:
        print("Not run.\n")
    else:
        lines, status, seconds, full = got
        rows = list(abuse_rows(lines))
        print(f"`tests/abuse/run`, {form(full)}, {seconds} s. Hostile peers beside 20 well-behaved ones that send, ping and count. *More* is the")
        print("server's resident memory at its peak beyond what it was before, and what the test allows; *neighbours*: echo round trips /")
        print("lost, connections that were closed, beats / unanswered. Each test fails where one of these is not 0.\n")
        print("| test | | peak | more | CPU | neighbours | what happened |")
        print("| --- | --- | --- | --- | --- | --- | --- |")
        for name, outcome, _, what, peak, growth, cpu, near in rows:
            print("| " + " | ".join(map(cell, (name, outcome, peak, growth, cpu, near, what))) + " |")
        last = [line for line in lines if line.startswith("abuse: ")]
        print(f"\n{last[-1] if last else f'It ended with status {status} before its summary.'}\n")

    for name, (title, what) in PARTS.items():
        print(f"## {title}\n\n{what}\n")
        got = read(name)
        if got is None:
            print("Not run: its script is not there yet, or was left out.\n")
            continue
        lines, status, seconds, full = got
        tail = [line for line in lines if line.strip()][-25:]
        # How long each target took is in its line.
        size = "" if name == "fuzz" else f", {form(full)}"
        print(f"{seconds} s{size}{'' if status == 0 else f', exit status {status}'}:\n")
        print("```text\n" + "\n".join(tail) + "\n```\n")


main()
