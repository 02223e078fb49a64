"""Placeholder history files: how a promotion gets the timeline number that was claimed for it.

PostgreSQL takes the number above the highest history file it finds.  Files for the numbers below the claimed one are
planted just before a promotion; a standby that restarts with some above its own timeline could never stream (L8), so they
go when the promotion does not happen.  Below a real history file they stay: followers ask for every number in between.
"""

from __future__ import annotations

import re
from pathlib import Path

from daemonkit.durable import fsync_dir
from pgtopology.lsn import Lsn, parse_lsn
from pgtopology.timeline import FIRST_TIMELINE, Timeline

_MARK = b"# endpointd: this timeline was claimed and never used here\n"
_NAME = re.compile(r"[0-9A-F]{8}\.history")


def plant_placeholders(wal: Path, timeline: Timeline) -> None:
    """Make every timeline below *timeline* look taken."""
    for number in range(FIRST_TIMELINE + 1, timeline):
        path = wal / f"{number:08X}.history"
        if not path.exists():
            path.write_bytes(_MARK)
            path.chmod(0o600)
    fsync_dir(wal)


def remove_placeholders(wal: Path) -> None:
    """Remove the placeholders above the highest real history file."""
    removed = False
    for path in sorted((path for path in wal.glob("*.history") if _NAME.fullmatch(path.name)), reverse=True):
        if path.read_bytes() != _MARK:
            break
        path.unlink()
        removed = True
    if removed:
        fsync_dir(wal)


def is_placeholder(text: bytes) -> bool:
    """Return whether *text* is that of a placeholder."""
    return text == _MARK


def parse_history(text: str) -> list[tuple[Timeline, Lsn]]:
    """Return the timelines that the owner of *text*, a history file, has been on, each with the LSN at which it was left.

    Each line is: timeline, LSN, reason. PostgreSQL, timeline.c. Raises ValueError.
    """
    lines = [line.split() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    if any(len(words) < 2 or not words[0].isdecimal() for words in lines):
        raise ValueError("a line of a history file cannot be read")
    return [(Timeline(int(words[0])), parse_lsn(words[1])) for words in lines]


def fork_point(history: str, timeline: Timeline) -> Lsn | None:
    """Return where the owner of *history* left *timeline*, or None if it never was on it.

    Each line is: timeline, LSN at which it was left, reason. PostgreSQL, timeline.c.
    """
    for line in history.splitlines():
        words = line.split()
        if len(words) >= 2 and words[0] == str(timeline):
            try:
                return parse_lsn(words[1])
            except ValueError:
                return None
    return None
