"""Flight records on disk: one JSON file each, EPOCH-KIND-NODE.json, the newest hundred kept.

Written beside the manager's work, never in its way: a task of its own is woken by a step worth keeping, and a thread writes
the file.  A disk that takes nothing is reported and changes nothing.  The first steps of a transition are written too, so that
a manager that dies in the middle leaves a record that tells how far it came; the next one continues it.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from pathlib import Path

import msgspec

from cluster_manager.record.flight_recorder import FlightRecorder
from daemonkit.logs import get_logger
from pgtopology.flight import Flight

FLIGHTS_KEPT = 100
BETWEEN_WRITES_S = 0.25
"""A transition takes about so long: most are written twice, at their beginning and when they are over."""

_NAME = re.compile(r"(\d+)-[a-z]+-[a-z0-9-]+\.json")


class FlightFiles:
    """The records in *folder*."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def save(self, flight: Flight) -> None:
        """Write *flight* in place of what is there of it, and remove the oldest records. Raises OSError."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self._folder / f"{flight.epoch}-{flight.kind}-{flight.from_node or 'none'}.json"
        beside = path.with_suffix(".new")
        beside.write_bytes(msgspec.json.format(msgspec.json.encode(flight), indent=1) + b"\n")
        beside.chmod(0o600)
        beside.replace(path)
        for _, old in self._newest_first()[FLIGHTS_KEPT:]:
            old.unlink(missing_ok=True)

    def load(self) -> tuple[Flight, ...]:
        """Return every readable record, the newest first."""
        return tuple(flight for _, path in self._newest_first() if (flight := _read(path)) is not None)

    def find(self, epoch: int | None) -> Flight | None:
        """Return the record of the failure that had *epoch*, the newest one if that is None, or None without one."""
        for first, path in self._newest_first():
            if (epoch is None or first <= epoch) and (flight := _read(path)) is not None:
                return flight if epoch is None or flight.epoch <= epoch <= flight.last_epoch else None
        return None

    def _newest_first(self) -> list[tuple[int, Path]]:
        try:
            names = [(match, path) for path in self._folder.iterdir() if (match := _NAME.fullmatch(path.name)) is not None]
        except OSError:
            return []
        return sorted(((int(match[1]), path) for match, path in names), reverse=True)


class FlightWriter:
    """Brings what *recorder* gathers into *files*. Nobody waits for it but those who want to read.

    *ended_before* is the epoch of a record that had ended when this manager began, and is no news.
    """

    def __init__(self, recorder: FlightRecorder, files: FlightFiles, *, ended_before: int | None = None) -> None:
        self.recorder = recorder
        self.files = files
        self.on_ended: Callable[[Flight], None] | None = None
        """Told of each record that has ended, once, when it is known of which kind it was."""
        self._unjudged: Flight | None = None
        self._told_ended = ended_before
        self._written = 0
        self._wanted = asyncio.Event()
        self._failed = False
        self._lock = asyncio.Lock()

    def wake(self) -> None:
        """Have new steps written soon, if there are any."""
        if self.recorder.version != self._written:
            self._wanted.set()

    async def run(self) -> None:
        """Write until cancelled; what is not written then is written before this ends."""
        try:
            while True:
                await self._wanted.wait()
                self._wanted.clear()
                await self.flush()
                await asyncio.sleep(BETWEEN_WRITES_S)
        finally:
            if self.recorder.version != self._written:
                self._save(self.recorder.flight)

    async def flush(self) -> None:
        """Write what is not written yet."""
        async with self._lock:
            version, flight = self.recorder.version, self.recorder.flight
            if version != self._written:
                self._written = version
                await asyncio.to_thread(self._save, flight)
                self._tell(flight)

    def _tell(self, flight: Flight | None) -> None:
        if self.on_ended is None or flight is None:
            return
        before, self._unjudged = self._unjudged, None
        if before is not None and before.epoch != flight.epoch:
            self.on_ended(before)  # nobody will say any more
        if not flight.ended or flight.epoch == self._told_ended:
            return
        if not self.recorder.is_judged:
            self._unjudged = flight
            return
        self._told_ended = flight.epoch
        self.on_ended(flight)

    def _save(self, flight: Flight | None) -> None:
        if flight is None:
            return
        try:
            self.files.save(flight)
            self._failed = False
        except OSError as error:
            if not self._failed:
                get_logger().error("the record of a failover cannot be written", epoch=flight.epoch, error=str(error))
            self._failed = True


def _read(path: Path) -> Flight | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Flight)
    except (OSError, msgspec.DecodeError, RecursionError):
        return None
