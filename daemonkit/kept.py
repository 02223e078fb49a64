"""A value kept on disk beside the work: a copy that its owner could do without, for its next start.

Written in a thread, the newest only, because a slow disk must stop nobody; one that cannot be written is tried again until it
can.  A copy that cannot be read is none.  Knows nothing of the value but how it becomes bytes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from daemonkit.durable import read_or_none, write_durably
from daemonkit.logs import get_logger

RETRY_S = 1.0

T = TypeVar("T")


class Kept(Generic[T]):
    """One value in one file."""

    def __init__(self, path: Path, what: str, *, encode: Callable[[T], bytes], decode: Callable[[bytes], T]) -> None:
        """*what* names the value in logs; *decode* raises ValueError for what it cannot read."""
        self._path = path
        self._what = what
        self._encode = encode
        self._decode = decode
        self._newest: T | None = None
        self._changed = asyncio.Event()
        self._log = get_logger()

    def load(self) -> T | None:
        """Return the value that was kept, or None if there is none that can be used."""
        try:
            data = read_or_none(self._path)
            return self._decode(data) if data is not None else None
        except (OSError, ValueError) as error:
            self._log.warning(f"the kept {self._what} cannot be used", path=str(self._path), reason=str(error))
            return None

    def keep(self, value: T) -> None:
        """Have *value* written soon."""
        self._newest = value
        self._changed.set()

    async def run(self) -> None:
        """Write what is to be kept, for ever."""
        said: str | None = None
        while True:
            await self._changed.wait()
            self._changed.clear()
            if self._newest is None:
                continue
            try:
                await asyncio.to_thread(write_durably, self._path, self._encode(self._newest))
            except OSError as error:
                if str(error) != said:
                    said = str(error)
                    self._log.warning(
                        f"the {self._what} could not be kept; it is tried again", path=str(self._path), reason=said
                    )
                self._changed.set()
                await asyncio.sleep(RETRY_S)
            else:
                if said is not None:
                    self._log.info(f"the {self._what} is kept again", path=str(self._path))
                said = None
