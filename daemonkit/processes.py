"""A process of ours, remembered so that it can be found again after whoever started it is gone.

A pid alone names nobody: it is used again.  So a record holds pid, start time (clock ticks since boot), boot and command
line, and is believed only if all of them agree after the process has been pinned by a pidfd; signals go through that
descriptor and can never reach a stranger.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import signal
from collections.abc import Iterator
from pathlib import Path

import msgspec

from daemonkit import proctable
from daemonkit.durable import write_durably


class ProcessRecord(msgspec.Struct, frozen=True, kw_only=True):
    """Enough to recognise a process."""

    name: str
    pid: int
    start_ticks: int
    boot_id: str
    command: tuple[str, ...]


class PinnedProcess:
    """A live process behind a pidfd. Close it, or use it as a context manager."""

    def __init__(self, record: ProcessRecord, pidfd: int) -> None:
        self.record = record
        self._pidfd = pidfd

    def __enter__(self) -> PinnedProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def fileno(self) -> int:
        """Return the pidfd: readable once the process has ended."""
        return self._pidfd

    def close(self) -> None:
        """Let go of the process; it lives on."""
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1

    @property
    def has_ended(self) -> bool:
        """Whether it has exited (a zombie has)."""
        return self.wait(0.0)

    def wait(self, timeout_s: float) -> bool:
        """Wait until it has ended; return whether it did. Blocks the thread."""
        readable, _, _ = select.select([self._pidfd], [], [], timeout_s)
        return bool(readable)

    def send(self, number: signal.Signals) -> None:
        """Signal the process; one that has ended already is no error."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, number)


def describe_process(name: str, pid: int) -> ProcessRecord | None:
    """Return the record of the live process *pid*, or None if there is none."""
    stat, command = _stat(pid), proctable.arguments(pid)
    if stat is None or stat.has_ended or not command:
        return None
    return ProcessRecord(name=name, pid=pid, start_ticks=stat.start_ticks, boot_id=proctable.boot_id(), command=command)


def pin(record: ProcessRecord) -> PinnedProcess | None:
    """Return the process of *record* pinned, or None if it is gone or the pid is somebody else's by now."""
    try:
        pidfd = os.pidfd_open(record.pid)
    except OSError:
        return None
    if describe_process(record.name, record.pid) != record:
        os.close(pidfd)
        return None
    return PinnedProcess(record, pidfd)


def find_by_command(name: str, command: tuple[str, ...]) -> ProcessRecord | None:
    """Return the process of this user whose command line is exactly *command*, or None.

    Covers the moment between a start and its record.
    """
    return next(find_all_by_command(name, command), None)


def find_all_by_command(name: str, command: tuple[str, ...]) -> Iterator[ProcessRecord]:
    """Yield every process of this user whose command line is exactly *command*."""
    for pid in proctable.pids():
        if proctable.owner(pid) == os.getuid() and proctable.arguments(pid) == command:
            record = describe_process(name, pid)
            if record is not None:
                yield record


def write_record(path: Path, record: ProcessRecord) -> None:
    """Remember *record* in *path*."""
    write_durably(path, msgspec.json.encode(record) + b"\n")


def read_record(path: Path) -> ProcessRecord | None:
    """Return the record in *path*; None if there is none or it cannot be understood."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=ProcessRecord)
    except (OSError, msgspec.DecodeError, RecursionError):
        return None


def find_recorded(path: Path) -> PinnedProcess | None:
    """Return the live process that *path* remembers, pinned, or None."""
    record = read_record(path)
    return pin(record) if record is not None else None


def start_ticks_of(pid: int) -> int | None:
    """Return when *pid* was started, in clock ticks since boot; None if it is gone or a zombie."""
    stat = _stat(pid)
    return stat.start_ticks if stat is not None and not stat.has_ended else None


def waits_for_disk(pid: int) -> bool:
    """Return whether *pid* is in a wait that no signal ends, as for a disk that does not answer."""
    stat = _stat(pid)
    return stat is not None and stat.waits_for_disk


def parent_of(pid: int) -> int | None:
    """Return the parent of *pid*, or None if it is gone."""
    stat = _stat(pid)
    return stat.parent if stat is not None else None


def variables_of(pid: int) -> frozenset[str]:
    """Return the names of the environment variables that *pid* was started with; empty if it is gone or somebody else's."""
    try:
        data = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return frozenset()
    return frozenset(os.fsdecode(word.partition(b"=")[0]) for word in data.split(b"\0"))


def session_members(session: int) -> list[int]:
    """Return the pids of every live process in the session led by *session*, the leader's own left out."""
    found = ((pid, _stat(pid)) for pid in proctable.pids() if pid != session)
    return [pid for pid, stat in found if stat is not None and not stat.has_ended and stat.session == session]


async def ended(process: PinnedProcess) -> None:
    """Wait until *process* has ended."""
    loop = asyncio.get_running_loop()
    done = loop.create_future()
    descriptor = process.fileno()

    def note() -> None:
        if not done.done():
            done.set_result(None)

    loop.add_reader(descriptor, note)
    try:
        await done
    finally:
        loop.remove_reader(descriptor)


def _stat(pid: int) -> proctable.Stat | None:
    with contextlib.suppress(OSError):
        return proctable.stat_of(pid)
    return None
