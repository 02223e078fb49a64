"""Copies another node's data directory.

The copy grows beside PGDATA and becomes it by a rename when it is complete, so that a half-made one can never be taken for
data.  Its slot is made on the source first, under the name the new data will acknowledge by: WAL from the copy's beginning
is kept until it streams.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import shutil
from collections.abc import Callable
from pathlib import Path

from daemonkit.durable import fsync_dir, write_durably
from daemonkit.logs import get_logger
from noded.files.layout import Layout
from noded.postgres import conf
from noded.postgres.instance import Instance
from noded.postgres.source import source_walsender
from noded.postgres.tools import ToolError, run_tool
from noded.postgres.walsender import WalsenderError
from pgtopology.orders import Upstream

CLONE_TIMEOUT_S = 6 * 3600.0
ASK_TIMEOUT_S = 5.0

_PERCENT = re.compile(r"\((\d+)%\)")


async def copy_from(instance: Instance, source: Upstream, slot: str, progress: Callable[[int], None]) -> None:
    """Make the layout's partial directory a complete, durable copy of *source*'s data. Raises ToolError, OSError."""
    layout = instance.layout
    await remove_tree(layout.partial)
    arguments = [
        "--pgdata",
        str(layout.partial),
        "--wal-method=stream",
        "--checkpoint=fast",
        "--progress",
        "--no-password",
    ]
    has_slot = await _make_slot(instance, source, slot)
    if has_slot:
        arguments.append(f"--slot={slot}")
    connection = conf.conninfo(
        {
            "host": source.address.host,
            "port": str(source.address.port),
            "user": conf.REPLICATION_ROLE,
            "passfile": str(layout.tool_passfile),
            "application_name": "endpointd clone",
            **conf.transport(source.address.host),
            "connect_timeout": "5",
            "options": conf.WAL_OPTIONS,
        }
    )

    def watch(chunk: str) -> None:
        found = _PERCENT.findall(chunk)
        if found:
            progress(min(100, int(found[-1])))

    write_durably(layout.tool_passfile, conf.passfile_line(instance.server.replication_password, source.address))
    try:
        await run_tool(
            instance.binaries.command("pg_basebackup", *arguments, f"--dbname={connection}"),
            timeout_s=CLONE_TIMEOUT_S,
            watch=watch,
        )
    except (ToolError, OSError):
        if has_slot:
            # The next attempt takes another name, and nobody would use this one.
            await _drop_slot(instance, source, slot)
        raise
    finally:
        layout.tool_passfile.unlink(missing_ok=True)
    # The source's own settings and signals must not act here.
    for name in ("postgresql.auto.conf", "standby.signal", "recovery.signal", "postmaster.pid"):
        (layout.partial / name).unlink(missing_ok=True)
    write_durably(layout.partial / "standby.signal", b"")
    write_durably(layout.partial / "postgresql.auto.conf", b"")


async def put_in_place(layout: Layout) -> None:
    """Let the complete copy become PGDATA; the former one is set aside for removal, and one set aside before goes. Durable."""
    await remove_tree(layout.replaced)
    if layout.pgdata.exists():
        layout.pgdata.rename(layout.replaced)
        fsync_dir(layout.root)
    layout.partial.rename(layout.pgdata)
    fsync_dir(layout.root)


async def remove_tree(path: Path) -> None:
    """Remove *path* and all below it, off the event loop: it may be large. Of a link what it leads to stays."""
    if path.is_symlink():
        get_logger().warning("a link is removed, and what it leads to is left to whoever made it", path=str(path))
        path.unlink()
    elif path.exists():
        await asyncio.to_thread(shutil.rmtree, path)


async def _make_slot(instance: Instance, source: Upstream, slot: str) -> bool:
    """Make *slot* on *source* and return whether it is there; without it the copy leans on wal_keep_size."""
    walsender = source_walsender(instance, source)
    try:
        await walsender.ask(f'CREATE_REPLICATION_SLOT "{slot}" PHYSICAL RESERVE_WAL', timeout_s=ASK_TIMEOUT_S)
    except WalsenderError as error:
        return "already exists" in str(error)
    finally:
        walsender.close()
    return True


async def _drop_slot(instance: Instance, source: Upstream, slot: str) -> None:
    """Drop *slot* on *source*, if it can be reached: pg_basebackup has ended, its walsender may take a moment."""
    walsender = source_walsender(instance, source)
    with contextlib.suppress(WalsenderError), contextlib.closing(walsender):
        await walsender.ask(f'DROP_REPLICATION_SLOT "{slot}" WAIT', timeout_s=ASK_TIMEOUT_S)
