"""Long work on the data directory: made anew, copied, rewound.

One at a time, as a task of its own; what it destroys is marked in the durable state before it begins (S7), so that after a
crash nothing half-made is taken for data.  An outcome is an observation: `whole`, `activity`, `problem`.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Mapping
from pathlib import Path

from msgspec.structs import replace

from daemonkit.durable import write_durably
from daemonkit.logs import get_logger
from noded import clone, promise
from noded.bootstrap import make_data_directory
from noded.instance import Instance
from noded.postmaster import PostmasterError
from noded.promise import Work
from noded.reporter import Doing
from noded.rewind import rewind
from noded.room import disk_of
from noded.tail import keep_tail
from noded.tools import ToolError
from noded.walsender import WalsenderError
from pgtopology.epoch import Revision
from pgtopology.node import Incarnation, sync_name
from pgtopology.orders import StopMode, Upstream

FAILURES = (ToolError, PostmasterError, OSError, ValueError)
"""What the world can do to long work; anything else is our bug and ends the program."""

ASK_TIMEOUT_S = 5.0
ROOM_BYTES = 64 << 20
"""What a copy may need beyond the size of the former data: WAL written meanwhile."""


class Copies:
    """Makes and remakes the data directory of one node."""

    def __init__(self, instance: Instance, doing: Doing, turn: asyncio.Lock, passwords: Mapping[str, str]) -> None:
        self._instance = instance
        self._doing = doing
        self._turn = turn
        self._passwords = passwords
        self._log = get_logger()

    async def initialise(self) -> None:
        """Make a new cluster's data, and start it as a standby without upstream."""
        instance, state = self._instance, self._instance.state
        state.store(promise.begin(state.value, Work.INIT))
        layout = instance.layout
        await clone.remove_tree(layout.partial)
        await make_data_directory(
            instance.binaries, layout.partial, passwords=dict(self._passwords), passfile=layout.init_passfile
        )
        identifier = (await instance.control_data(layout.partial)).system_identifier
        write_durably(layout.partial / "standby.signal", b"")
        clone.put_in_place(instance)
        bound = promise.new_data(state.value, draw_incarnation(), identifier)
        # Nothing was ever acknowledged in this cluster, so the first node's data is all there is.
        state.store(replace(promise.finish(bound, whole=True), wanted=True))
        await self._start()

    async def clone(self, source: Upstream) -> None:
        """Replace the data by a copy of *source*'s, and follow it unless a promise was given meanwhile."""
        instance, state = self._instance, self._instance.state
        async with self._turn:
            await instance.stop(StopMode.IMMEDIATE)
        if instance.has_data():
            await self._keep_tail(source)
            await self._make_room()
        incarnation = draw_incarnation()

        def progress(percent: int) -> None:
            self._doing.progress_percent = percent

        await clone.copy_from(instance, source, sync_name(state.value.node, incarnation), progress)
        identifier = (await instance.control_data(instance.layout.partial)).system_identifier
        clone.put_in_place(instance)
        state.store(promise.finish(promise.new_data(state.value, incarnation, identifier)))
        await self._start()
        with contextlib.suppress(OSError):
            # What cannot be removed now goes at the next start.
            await clone.remove_tree(instance.layout.replaced)

    async def rewind(self, source: Upstream, revision: Revision) -> None:
        """Rewind the data to *source*'s history, by order of *revision*, and follow it unless a promise was given meanwhile."""
        instance, state = self._instance, self._instance.state
        async with self._turn:
            await instance.stop(StopMode.FAST)
        await rewind(instance, source)
        state.store(promise.rewound(state.value, revision))
        await self._start()

    async def _keep_tail(self, source: Upstream) -> None:
        """Keep the WAL that the source does not have; a copy is made also where that is not possible."""
        walsender = clone.source_walsender(self._instance, source)
        try:
            await keep_tail(self._instance, walsender, await walsender.identify(timeout_s=ASK_TIMEOUT_S))
        except (*FAILURES, WalsenderError) as error:
            self._log.warning("diverged WAL could not be kept", reason=str(error))
        finally:
            walsender.close()

    async def _make_room(self) -> None:
        """Remove the former data first where the disk has no room for both: it is given up already."""
        layout = self._instance.layout
        used = await asyncio.to_thread(_bytes_below, layout.pgdata)
        disk = disk_of(self._instance)
        if disk is not None and disk.free_bytes < used + ROOM_BYTES:
            self._log.warning("the former data is removed before the copy, for want of room", free_bytes=disk.free_bytes)
            await clone.remove_tree(layout.pgdata)

    async def _start(self) -> None:
        async with self._turn:
            if not self._instance.running and self._instance.state.value.wanted:
                await self._instance.start()


def _bytes_below(directory: Path) -> int:
    return sum(path.lstat().st_blocks * 512 for path in directory.rglob("*") if not path.is_dir())


def draw_incarnation() -> Incarnation:
    """Return what tells a new data directory from all others of its node."""
    return Incarnation(secrets.token_hex(3))
