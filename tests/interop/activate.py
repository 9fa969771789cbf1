"""Runs a command as a service manager does that passes sockets (sd_listen_fds(3)): they are descriptors 3 and
following, and LISTEN_PID is the command's own.

    python activate.py NAME=DESCRIPTOR... -- COMMAND...
"""

import fcntl
import os
import sys

at = sys.argv.index("--")
named = [word.rpartition("=")[::2] for word in sys.argv[1:at]]
command = sys.argv[at + 1 :]
# Out of the way first: 3 may be among them.
held = [fcntl.fcntl(int(number), fcntl.F_DUPFD_CLOEXEC, 3 + len(named)) for _, number in named]
for place, number in enumerate(held, 3):
    os.dup2(number, place, inheritable=True)
os.environ |= {"LISTEN_PID": os.environ.get("LISTEN_PID") or str(os.getpid()), "LISTEN_FDS": str(len(named)), "LISTEN_FDNAMES": ":".join(name for name, _ in named)}
os.execvp(command[0], command)
