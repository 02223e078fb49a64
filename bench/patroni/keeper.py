"""`python -m bench.patroni.keeper COMMAND…`: what an init system is to Patroni.

Runs the command, starts it again at once when it ends (Patroni's unit for systemd says `Restart=on-failure`), and reaps
the orphans it leaves: Patroni's PostgreSQL is nobody's child, and where nobody reaps it a dead postmaster seems to live on.
Ends when it is killed, and leaves what runs to who killed it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time

from daemonkit.parentage import become_subreaper

RESTART_PAUSE_S = 0.1
"""What systemd waits by default."""


def main() -> None:
    """Keep the command of the command line running for ever."""
    if not become_subreaper():
        sys.exit("keeper: this system has no subreapers")
    while True:
        child = subprocess.Popen(sys.argv[1:])
        while True:
            pid, _ = os.wait()
            if pid == child.pid:
                # It is reaped already; Popen must not wait for whoever gets this pid next.
                child.returncode = 0
                break
        time.sleep(RESTART_PAUSE_S)


if __name__ == "__main__":
    main()
