"""Keeps the WAL that a node holds and the new writer does not, before a rewind or a copy destroys it.

It may hold commits that nobody was told of; a person may want to look.  What is kept is bounded.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import shutil
from pathlib import Path

from daemonkit.durable import fsync_dir
from noded.data.clone import remove_tree
from noded.files.history import fork_point
from noded.files.segments import newest_timeline, timeline_of
from noded.postgres.instance import Instance
from noded.postgres.walsender import WalEnd, Walsender

ASK_TIMEOUT_S = 5.0
KEPT_MAX = 3
"""How many diverged tails are kept."""
KEPT_SEGMENTS_MAX = 16
"""How many WAL segments of each: 256 MB of the usual size."""


async def keep_diverged_wal(instance: Instance, walsender: Walsender, end: WalEnd) -> None:
    """Copy the WAL behind the point where PGDATA left the history of *walsender*'s server, whose WAL ends at *end*.

    PostgreSQL is stopped. Raises ToolError, WalsenderError, OSError, ValueError.
    """
    layout = instance.layout
    geometry = (await instance.control_data()).geometry
    timeline = newest_timeline(layout.wal)
    own = sorted((path for path in layout.wal.iterdir() if timeline_of(path.name) == timeline), key=lambda path: path.name)
    if not own:
        return
    history = await walsender.history(end.timeline, timeout_s=ASK_TIMEOUT_S) if end.timeline > 1 else ""
    fork = fork_point(history, timeline) or 0
    tail = [path for path in own if geometry.begin(path.name) + geometry.segment_bytes > fork][:KEPT_SEGMENTS_MAX]
    if tail:
        await put_aside(tail, layout.kept, f"{instance.state.value.sync_name}")


async def put_aside(files: list[Path], directory: Path, name: str) -> None:
    """Copy *files* to a new directory in *directory*, and remove the oldest beyond what is kept. Raises OSError."""
    known = [int(path.name.split("-", 1)[0]) for path in _kept(directory)]
    await asyncio.to_thread(_copy, files, directory / f"{max(known, default=0) + 1:06d}-{name}")
    for old in _kept(directory)[:-KEPT_MAX]:
        await remove_tree(old)


def _kept(directory: Path) -> list[Path]:
    """Return the tails kept so far, oldest first."""
    return sorted(path for path in directory.iterdir() if re.match(r"\d{6}-", path.name))


def _copy(files: list[Path], target: Path) -> None:
    target.mkdir(mode=0o700)
    for path in files:
        with contextlib.suppress(FileNotFoundError):
            shutil.copyfile(path, target / path.name)
    fsync_dir(target)
