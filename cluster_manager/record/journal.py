"""The journal: what happened to the cluster, in order, for people, tools and the measurements of a failover.

Events are kept in memory for those who follow, and appended to a file as one line of JSON each, so that a restarted manager
remembers.  The file is written without fsync: after a power failure the last events may be missing, which harms nobody,
because nothing is ever decided by the journal.  For the same reason a disk that takes no more is reported once and does not
stop the manager.  The numbers of events only grow, over restarts too.

`append` is a synchronous function: it costs one write into the page cache, some ten microseconds.
"""

from __future__ import annotations

import asyncio
import errno
import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

import msgspec

from daemonkit.logs import get_logger
from pgtopology.epoch import Epoch
from pgtopology.event import Event

EVENTS_MAX = 10_000
"""In memory: weeks of quiet, or some hundred failovers."""
FILE_BYTES_MAX = 16 << 20
FILES_KEPT = 3
"""Full files kept beside the current one: journal.jsonl.1 is the youngest of them."""


_encoder = msgspec.json.Encoder(enc_hook=str)
_decoder = msgspec.json.Decoder(Event)


class Journal:
    """The events of one cluster, continued in the file *path*. Use as a context manager, from one event loop only."""

    def __init__(
        self,
        path: Path,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        events_max: int = EVENTS_MAX,
        file_bytes_max: int = FILE_BYTES_MAX,
    ) -> None:
        self._path = path
        self._clock = clock
        self._wall_clock = wall_clock
        self._file_bytes_max = file_bytes_max
        self._events: deque[Event] = deque(maxlen=events_max)
        self._sequence = 0
        self._file: int | None = None
        self._file_bytes = 0
        self._file_failed = False
        self._changed = asyncio.Event()

    def __enter__(self) -> Self:
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._remember()
        try:
            self._open_file()
        except OSError as error:
            self._note_failure(error)
        return self

    def __exit__(self, *_error: object) -> None:
        self._close_file()

    @property
    def last_sequence(self) -> int:
        """The number of the newest event, 0 if there was none."""
        return self._sequence

    def append(
        self,
        kind: str,
        message: str,
        *,
        epoch: Epoch,
        node: str | None = None,
        elapsed_ms: int | None = None,
        **fields: object,
    ) -> Event:
        """Record that *kind* happened, and wake everybody who waits for it."""
        self._sequence += 1
        event = Event(
            sequence=self._sequence,
            at=self._wall_clock().isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            monotonic_ms=int(self._clock() * 1000),
            epoch=epoch,
            kind=kind,
            node=node,
            elapsed_ms=elapsed_ms,
            message=message,
            fields=fields,
        )
        self._events.append(event)
        self._write(encode_event(event) + b"\n")
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
        return event

    def since(self, sequence: int) -> list[Event]:
        """Return the events after number *sequence* that are still in memory, oldest first."""
        newer: list[Event] = []
        for event in reversed(self._events):
            if event.sequence <= sequence:
                break
            newer.append(event)
        newer.reverse()
        return newer

    async def wait_since(self, sequence: int, *, timeout_s: float) -> list[Event]:
        """Return the events after number *sequence*; if there are none yet, wait for the next, at most *timeout_s*."""
        if self._sequence <= sequence:
            changed = self._changed
            try:
                async with asyncio.timeout(timeout_s):
                    await changed.wait()
            except TimeoutError:
                return []
        return self.since(sequence)

    def _remember(self) -> None:
        """Read the newest events back, and continue their numbers."""
        unreadable = 0
        for event in _read_events(self._oldest_first()):
            if event is None:
                unreadable += 1  # cut off by a crash; its number may have been seen by somebody
            else:
                self._events.append(event)
                self._sequence = max(self._sequence, event.sequence)
        self._sequence += unreadable

    def _oldest_first(self) -> list[Path]:
        """Return the files worth reading: the current one and, as it may be young, the one before it."""
        return [path for path in (self._numbered(1), self._path) if path.exists()]

    def _numbered(self, number: int) -> Path:
        return self._path.with_name(f"{self._path.name}.{number}")

    def _open_file(self) -> None:
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._file_bytes = os.fstat(self._file).st_size
        if self._file_bytes > 0 and os.pread(self._file, 1, self._file_bytes - 1) != b"\n":
            self._file_bytes += os.write(self._file, b"\n")  # after a line that a crash cut off

    def _close_file(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            os.close(file)

    def _write(self, line: bytes) -> None:
        try:
            if self._file is None:
                self._open_file()
            if self._file_bytes + len(line) > self._file_bytes_max:
                self._rotate()
            assert self._file is not None
            written = os.write(self._file, line)
            self._file_bytes += written
            if written < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self._file_failed = False
        except OSError as error:
            self._note_failure(error)

    def _note_failure(self, error: OSError) -> None:
        if not self._file_failed:
            get_logger().error("the journal cannot be written, events are kept in memory only", error=str(error))
        self._file_failed = True
        self._close_file()  # the next event opens it again, and ends a line that was cut off

    def _rotate(self) -> None:
        """Put the full file away and begin a new one."""
        self._close_file()
        for number in range(FILES_KEPT, 1, -1):
            if self._numbered(number - 1).exists():
                self._numbered(number - 1).replace(self._numbered(number))
        if self._path.exists():
            self._path.replace(self._numbered(1))
        self._open_file()


def encode_event(event: Event) -> bytes:
    """Return *event* as one line of JSON without a line end."""
    return _encoder.encode(event)


def _read_events(paths: list[Path]) -> Iterator[Event | None]:
    """Yield each event in *paths*, None for a line that is none."""
    for path in paths:
        try:
            with path.open("rb") as file:
                for line in file:
                    try:
                        yield _decoder.decode(line)
                    except (msgspec.DecodeError, RecursionError):
                        yield None
        except OSError as error:
            get_logger().error("the journal cannot be read, its events are missing", path=str(path), error=str(error))
