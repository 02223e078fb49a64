"""Ends what a run of tests left behind when it was itself ended at once, by lack of memory or a signal that leaves no time.

A cluster outlives whoever started it, as it should. Without this, one whose test died with its process would go on until
somebody notices, and take time and memory from every test after it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from daemonkit.proctable import arguments, pids, working_directory
from testkit.processes import send_all
from testkit.warm import ROOT

ENOUGH_S = 20.0
"""For all of them to be gone: what supervises is killed with what it supervises, but starts more between two looks."""


@contextlib.contextmanager
def ended_with_us(folder: Path) -> Iterator[None]:
    """Have all that works in *folder* ended when this process has gone, however it goes."""
    watch = subprocess.Popen(
        [sys.executable, "-m", "testkit.leftovers", str(folder)], cwd=ROOT, stdin=subprocess.PIPE, start_new_session=True
    )
    assert watch.stdin is not None
    try:
        yield
    finally:
        watch.stdin.close()
        watch.wait()


def left_in(folder: Path) -> list[int]:
    """Return the processes that work in *folder* or name something in it on their command line, but this one."""
    place = f"{folder}{os.sep}"
    return [
        pid
        for pid in pids()
        if pid != os.getpid()
        and (f"{working_directory(pid) or ''}{os.sep}".startswith(place) or any(place in word for word in arguments(pid)))
    ]


def _main() -> None:
    folder = Path(sys.argv[1])
    sys.stdin.buffer.read()
    deadline = time.monotonic() + ENOUGH_S
    told: set[int] = set()
    while (left := left_in(folder)) and time.monotonic() < deadline:
        for pid in sorted(set(left) - told):
            sys.stderr.write(f"left behind in {folder}, killed: {pid} {' '.join(arguments(pid))}\n")
        told.update(left)
        send_all(left, signal.SIGKILL)
        time.sleep(0.05)


if __name__ == "__main__":
    _main()
