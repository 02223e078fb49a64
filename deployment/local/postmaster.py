"""Which PostgreSQL runs in a data directory, as its files and the kernel say."""

from __future__ import annotations

import contextlib
from pathlib import Path

from daemonkit import proctable


def postmaster_of(pgdata: Path) -> int | None:
    """Return the pid of the postmaster that runs in *pgdata*, or None.

    postmaster.pid outlives a crash, so the process must also have the directory as its working directory: PostgreSQL's
    server changes into it and stays there.
    """
    try:
        pid = int((pgdata / "postmaster.pid").read_text().split("\n", 1)[0])
    except (OSError, ValueError):
        return None
    if proctable.working_directory(pid) != str(pgdata.resolve()):
        return None
    with contextlib.suppress(OSError):
        stat = proctable.stat_of(pid)
        return pid if stat is not None and not stat.has_ended else None
    return None
