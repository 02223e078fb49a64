"""Brings a diverged data directory back to where it left the new writer's history.

standby.signal must be away while pg_rewind runs, because its single-user recovery refuses it (L7).  The diverged WAL, which
may hold commits that nobody was told of, is kept aside within bounds.  A rewind that fails leaves data that must be copied
anew; the durable state says so until a copy succeeds.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import shutil
from pathlib import Path

from daemonkit.durable import fsync_dir, write_durably
from noded import conf
from noded.clone import remove_tree, source_walsender
from noded.history import fork_point
from noded.instance import Instance
from noded.tools import ToolError, run_tool
from noded.walsender import WalEnd, Walsender, WalsenderError
from pgtopology.orders import Upstream
from pgtopology.timeline import Timeline

REWIND_TIMEOUT_S = 3600.0
CHECKPOINT_TIMEOUT_S = 300.0
ASK_TIMEOUT_S = 5.0
KEPT_MAX = 3
"""How many diverged tails are kept."""
KEPT_SEGMENTS_MAX = 16
"""How many WAL segments of each: 256 MB of the usual size."""

_SEGMENT = re.compile(r"([0-9A-F]{8})([0-9A-F]{8})([0-9A-F]{8})(\.partial)?")


async def rewind(instance: Instance, source: Upstream) -> None:
    """Rewind PGDATA to *source*'s history, durable when this returns. PostgreSQL is stopped. Raises ToolError, OSError."""
    layout = instance.layout
    walsender = source_walsender(instance, source)
    try:
        end = await _prepare_source(walsender)
        await _keep_tail(instance, walsender, end)
    except WalsenderError as error:
        raise ToolError(f"the source cannot be used: {error}") from error
    finally:
        walsender.close()
    layout.standby_signal.unlink(missing_ok=True)
    layout.pid_file.unlink(missing_ok=True)
    layout.auto_conf.write_bytes(b"")
    fsync_dir(layout.pgdata)
    connection = conf.conninfo(
        {
            "host": source.address.host,
            "port": str(source.address.port),
            "user": conf.REPLICATION_ROLE,
            "dbname": "postgres",
            "passfile": str(layout.tool_passfile),
            "application_name": "endpointd rewind",
            "connect_timeout": "5",
        }
    )
    write_durably(layout.tool_passfile, conf.passfile_line(instance.server.replication_password, source.address))
    try:
        await run_tool(
            instance.binaries.command("pg_rewind", "--target-pgdata", str(layout.pgdata), f"--source-server={connection}"),
            timeout_s=REWIND_TIMEOUT_S,
        )
    finally:
        layout.tool_passfile.unlink(missing_ok=True)
    write_durably(layout.standby_signal, b"")
    layout.auto_conf.write_bytes(b"")


async def _prepare_source(walsender: Walsender) -> WalEnd:
    """Make sure that *walsender*'s server is a primary whose control file knows its timeline, and return its WAL end."""
    if await walsender.in_recovery(timeout_s=ASK_TIMEOUT_S):
        raise WalsenderError("it is a standby")
    await walsender.ask("CHECKPOINT", timeout_s=CHECKPOINT_TIMEOUT_S)
    return await walsender.identify(timeout_s=ASK_TIMEOUT_S)


async def _keep_tail(instance: Instance, walsender: Walsender, end: WalEnd) -> None:
    """Copy the WAL behind the fork aside."""
    layout = instance.layout
    control = await instance.control_data()
    segments = sorted((path for path in layout.wal.iterdir() if _SEGMENT.fullmatch(path.name)), key=lambda path: path.name)
    own = [path for path in segments if int(path.name[:8], 16) == _newest_timeline(segments)]
    if not own:
        return
    history = await walsender.history(end.timeline, timeout_s=ASK_TIMEOUT_S) if end.timeline > 1 else ""
    fork = fork_point(history, Timeline(int(own[-1].name[:8], 16)))
    first = fork // control.wal_segment_bytes if fork is not None else 0
    per_id = 0x1_0000_0000 // control.wal_segment_bytes
    tail = [path for path in own if int(path.name[8:16], 16) * per_id + int(path.name[16:24], 16) >= first][:KEPT_SEGMENTS_MAX]
    if tail:
        await put_aside(tail, layout.kept, f"{instance.state.value.sync_name}")


async def put_aside(files: list[Path], directory: Path, name: str) -> None:
    """Copy *files* to a new directory in *directory*, and remove the oldest beyond what is kept. Raises OSError."""
    known = [int(path.name.split("-", 1)[0]) for path in _kept(directory)]
    await asyncio.to_thread(_copy, files, directory / f"{max(known, default=0) + 1:06d}-{name}")
    for old in _kept(directory)[:-KEPT_MAX]:
        await remove_tree(old)


def _newest_timeline(segments: list[Path]) -> int:
    return max((int(path.name[:8], 16) for path in segments), default=0)


def _kept(directory: Path) -> list[Path]:
    """Return the tails kept so far, oldest first."""
    return sorted(path for path in directory.iterdir() if re.match(r"\d{6}-", path.name))


def _copy(files: list[Path], target: Path) -> None:
    target.mkdir(mode=0o700)
    for path in files:
        with contextlib.suppress(FileNotFoundError):
            shutil.copyfile(path, target / path.name)
    fsync_dir(target)
