"""Makes, copies and rewinds the data directory: the parts of long work, each on its own.

In what sequence, and what is durable before what, is `noded.acts.remaking`'s business.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Mapping
from pathlib import Path

from daemonkit.durable import write_durably
from daemonkit.logs import get_logger
from noded.acts.memory import Memory
from noded.data import clone
from noded.data.bootstrap import make_data_directory
from noded.data.diverged_wal import keep_diverged_wal
from noded.data.rewind import rewind
from noded.postgres.disk_space import disk_of
from noded.postgres.failures import FAILURES
from noded.postgres.instance import Instance
from noded.postgres.source import source_walsender
from noded.postgres.walsender import WalsenderError
from pgtopology.node import Incarnation, sync_name
from pgtopology.orders import Upstream

ASK_TIMEOUT_S = 5.0
ROOM_BYTES = 64 << 20
"""What a copy may need beyond the size of the former data: WAL written meanwhile."""


class Copies:
    """The data directory of one node. Everything here raises ToolError, OSError or ValueError."""

    def __init__(self, instance: Instance, memory: Memory, passwords: Mapping[str, str]) -> None:
        self._instance = instance
        self._memory = memory
        self._passwords = passwords
        self._log = get_logger()

    async def make(self) -> str:
        """Make a new cluster's data beside PGDATA; return its system identifier."""
        instance, layout = self._instance, self._instance.layout
        await clone.remove_tree(layout.partial)
        await make_data_directory(
            instance.binaries, layout.partial, passwords=dict(self._passwords), passfile=layout.init_passfile
        )
        identifier = (await instance.control_data(layout.partial)).system_identifier
        write_durably(layout.partial / "standby.signal", b"")
        return identifier

    async def copy(self, source: Upstream, incarnation: Incarnation) -> str:
        """Copy *source*'s data beside PGDATA, to be known as *incarnation*; return its system identifier."""
        instance = self._instance

        def progress(percent: int) -> None:
            self._memory.progress_percent = percent

        await clone.copy_from(instance, source, sync_name(instance.state.value.node, incarnation), progress)
        return (await instance.control_data(instance.layout.partial)).system_identifier

    async def put_in_place(self) -> None:
        """Let what was made become PGDATA, durably."""
        await clone.put_in_place(self._instance.layout)

    async def remove_replaced(self) -> None:
        """Remove the former data; what cannot be removed now goes at the next start."""
        with contextlib.suppress(OSError):
            await clone.remove_tree(self._instance.layout.replaced)

    async def remove_data(self) -> None:
        """Remove PGDATA."""
        await clone.remove_tree(self._instance.layout.pgdata)

    async def rewind(self, source: Upstream) -> None:
        """Rewind PGDATA to *source*'s history."""
        await rewind(self._instance, source)

    async def make_room(self, source: Upstream) -> None:
        """Keep what *source* does not have, and remove the former data first where the disk has no room for both."""
        await self._keep_tail(source)
        layout = self._instance.layout
        used = await asyncio.to_thread(_bytes_below, layout.pgdata)
        disk = disk_of(self._instance)
        if disk is not None and disk.free_bytes < used + ROOM_BYTES:
            # It is given up already.
            self._log.warning("the former data is removed before the copy, for want of room", free_bytes=disk.free_bytes)
            await clone.remove_tree(layout.pgdata)

    async def _keep_tail(self, source: Upstream) -> None:
        """Keep the WAL that the source does not have; a copy is made also where that is not possible."""
        walsender = source_walsender(self._instance, source)
        try:
            await keep_diverged_wal(self._instance, walsender, await walsender.identify(timeout_s=ASK_TIMEOUT_S))
        except (*FAILURES, WalsenderError) as error:
            self._log.warning("diverged WAL could not be kept", reason=str(error))
        finally:
            walsender.close()


def _bytes_below(directory: Path) -> int:
    return sum(path.lstat().st_blocks * 512 for path in directory.rglob("*") if not path.is_dir())


def draw_incarnation() -> Incarnation:
    """Return what tells a new data directory from all others of its node."""
    return Incarnation(secrets.token_hex(3))
