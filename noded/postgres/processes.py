"""The process table, as far as a node needs it: who belongs to this data directory, and what they say they do.

PostgreSQL's own views are not enough: pg_stat_wal_receiver hides a receiver that is still connecting (S2), and a dead
postmaster answers nothing while its backends live on.  PostgreSQL names its processes in the table (daemonkit/proctable.py).
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from daemonkit.proctable import arguments, children, pids, title, working_directory

_RECEIVER = re.compile(r"postgres: (\S+: )?walreceiver\b")
_STREAMING = re.compile(_RECEIVER.pattern + " streaming ")
_SYNCHRONISER = re.compile(r"postgres: (\S+: )?slotsync worker\b")
_TOOLS = ("pg_basebackup", "pg_rewind", "initdb", "postgres", "unshare")


def members(pgdata: Path) -> list[int]:
    """Return every living process that works in *pgdata*: a postmaster, its children and its orphans.

    They all keep it as their working directory. Zombies have none and are not returned.
    """
    wanted = os.path.realpath(pgdata)
    deleted = wanted + " (deleted)"
    return [pid for pid in pids() if working_directory(pid) in (wanted, deleted)]


def tools_on(path: Path) -> list[int]:
    """Return every process of a PostgreSQL tool that was given *path* as an argument: what a killed noded left at work."""
    return [pid for pid in pids() if str(path) in (words := arguments(pid))[1:] and words[0].rpartition("/")[2] in _TOOLS]


def receivers(postmaster: int) -> list[int]:
    """Return the children of *postmaster* that call themselves WAL receivers."""
    return [pid for pid in children(postmaster) if _RECEIVER.match(title(pid) or "")]


def slot_synchronisers(postmaster: int) -> list[int]:
    """Return the children of *postmaster* that keep its logical slots in step with its upstream's, from PostgreSQL 17 on."""
    return [pid for pid in children(postmaster) if _SYNCHRONISER.match(title(pid) or "")]


def is_streaming(receiver: int) -> bool:
    """Return whether the WAL receiver says that it has written what it was sent."""
    return _STREAMING.match(title(receiver) or "") is not None


def possible_receivers(postmaster: int) -> list[int]:
    """Return the children of *postmaster* that are WAL receivers, or too young to say what they are (S2).

    A child carries the postmaster's own command line until it has named itself.
    """
    found: list[int] = []
    for pid in children(postmaster):
        text = title(pid)
        if text and (_RECEIVER.match(text) or not text.startswith("postgres: ")):
            found.append(pid)
    return found
