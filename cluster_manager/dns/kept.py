"""The last document on disk, so that names are answered by a manager that was restarted while its store is out of reach.

It is a copy and never decides anything: only DNS reads it, and whatever the store says replaces it, also what looks older.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from daemonkit.durable import read_or_none, write_durably
from daemonkit.logs import get_logger
from pgtopology.codec import MessageError, decode, encode
from pgtopology.document import Topology


class KeptDocument:
    """One file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._newest: Topology | None = None
        self._changed = asyncio.Event()
        self._log = get_logger()

    def load(self) -> Topology | None:
        """Return the document that was kept, or None if there is none that can be used."""
        try:
            data = read_or_none(self._path)
            return decode(data, Topology) if data is not None else None
        except (OSError, MessageError) as error:
            self._log.warning("the kept document cannot be used", path=str(self._path), reason=str(error))
            return None

    def keep(self, topology: Topology) -> None:
        """Have *topology* written soon."""
        self._newest = topology
        self._changed.set()

    async def run(self) -> None:
        """Write what is to be kept, the newest only, in a thread: a slow disk must not stop a failover."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            if self._newest is not None:
                try:
                    await asyncio.to_thread(write_durably, self._path, encode(self._newest))
                except OSError as error:
                    self._log.warning("the document could not be kept", path=str(self._path), reason=str(error))
