"""One postmaster as our direct child: started, watched, signalled, stopped; or adopted from a noded that died.

Its end is learnt at once, through a process descriptor on the event loop.  "Stopped" means that no process of the data
directory is left, because orphaned backends of a dead postmaster can still acknowledge commits (S10).  This file knows
processes and files; it knows nothing of roles, epochs or orders.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from daemonkit.logs import get_logger
from noded import metrics
from noded.files.layout import Layout
from noded.postgres import confinement, processes
from noded.postgres.tools import environment
from pgtopology.observation import PostmasterState
from pgtopology.orders import StopMode
from pgtopology.timing import FAST_STOP_MS

POLL_S = 0.002
KILL_AFTER_S = 0.4
"""An immediate stop gives the processes this long before they are killed: PostgreSQL itself would wait 5 s, and the two
differ in nothing that survives."""
FAST_STOP_S = FAST_STOP_MS / 1000
GONE_S = 10.0
"""For killed processes to vanish. One in an uninterruptible wait (a hung disk) may not."""
LOG_TAIL_BYTES = 1 << 14
_OF_DATA = ("control file", "pg_control", "database files", "data directory", "PG_VERSION", "No space left on device")


class PostmasterError(Exception):
    """PostgreSQL could not be started or stopped."""


@dataclass(slots=True)
class _Process:
    """The postmaster that is watched now."""

    pid: int
    descriptor: int
    child: subprocess.Popen[bytes] | None
    """None if it was adopted."""
    ended: asyncio.Event
    stop_ordered: bool = False


class Postmaster:
    """The postmaster of one data directory."""

    def __init__(self, layout: Layout, on_change: Callable[[], None], *, tablespaces_anywhere: bool = False) -> None:
        self._layout = layout
        self._on_change = on_change
        self._tablespaces_anywhere = tablespaces_anywhere
        self._log = get_logger()
        self._process: _Process | None = None
        self._dying = False
        self.exit_status: int | None = None
        self.unexpected_exit = False
        self.exited = asyncio.Event()
        """Set at an exit that nobody ordered: whoever waits for it cleans up and clears it."""
        self.ready_seen = False
        self.ended_while_starting = False
        self._options_before: int | None = None
        self._began_s = 0.0
        self._lived_s = 0.0

    @property
    def pid(self) -> int | None:
        """The postmaster's, or None if none runs."""
        return self._process.pid if self._process is not None else None

    @property
    def lived_s(self) -> float:
        """How long the postmaster has run, or the last one ran."""
        return asyncio.get_running_loop().time() - self._began_s if self._process is not None else self._lived_s

    @property
    def state(self) -> PostmasterState:
        """What the postmaster is doing."""
        process = self._process
        if process is None:
            return PostmasterState.STOPPING if self._dying else PostmasterState.STOPPED
        if process.stop_ordered:
            return PostmasterState.STOPPING
        return PostmasterState.RUNNING if self.ready_seen else PostmasterState.STARTING

    def is_ready(self) -> bool:
        """Return whether PostgreSQL says of itself that it accepts connections."""
        if self._process is None:
            return False
        try:
            lines = self._layout.pid_file.read_text().splitlines()
        except OSError:
            return False
        return len(lines) >= 8 and lines[0].strip() == str(self._process.pid) and lines[7].strip() == "ready"

    def start(self, command: Sequence[str]) -> None:
        """Start PostgreSQL. Nothing of the data directory may be running. Raises PostmasterError."""
        assert self._process is None
        self._remove_locks()
        self._options_before = self._options_written()

        def spawn(confined: bool) -> subprocess.Popen[bytes]:
            if not confined and not self._tablespaces_anywhere:
                self._log.warning("this kernel cannot keep tablespaces inside the data directory")
            return self._spawn(command)

        try:
            child = spawn(False) if self._tablespaces_anywhere else confinement.run_confined(spawn)
        except OSError as error:
            raise PostmasterError(f"cannot start {command[0]}: {error}") from error
        self.unexpected_exit = False
        metrics.STARTS.inc()
        try:
            self._watch(child.pid, child)
        except OSError as error:
            # Nobody would see its end, so it must not live.
            child.kill()
            child.wait()
            raise PostmasterError(f"cannot watch over {command[0]}: {error}") from error
        self._log.info("postgresql started", pid=child.pid)

    def _spawn(self, command: Sequence[str]) -> subprocess.Popen[bytes]:
        # Before it has its handlers a SIGHUP would end it. Blocked, one waits for them: the mask is inherited, and PostgreSQL
        # unblocks everything when it is ready for it (postmaster.c, ServerLoop).
        with self._layout.log.open("ab") as log:
            mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
            try:
                return subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    cwd=self._layout.pgdata,
                    start_new_session=True,
                    env=environment(),
                )
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    def adopt(self) -> bool:
        """Take over the postmaster that runs in the data directory. Return False if there is none."""
        pid = self._recorded_pid()
        if pid is None or pid not in (self._members() or ()):
            return False
        try:
            self._watch(pid, None)
        except ProcessLookupError:
            return False
        self._log.info("postgresql adopted", pid=pid)
        return True

    def reload(self) -> None:
        """Make PostgreSQL read its configuration again."""
        self.signal(signal.SIGHUP)

    def signal(self, number: signal.Signals) -> None:
        """Send *number* to the postmaster, if it runs."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._process.descriptor, number)

    async def stop(self, mode: StopMode, *, fast_s: float = FAST_STOP_S) -> None:
        """Stop PostgreSQL and return when no process of its data directory is left.

        A fast stop that takes longer than *fast_s* becomes an immediate one. Raises PostmasterError if processes cannot be
        killed.
        """
        process = self._process
        if process is not None:
            process.stop_ordered = True
            self._on_change()
            if mode is StopMode.FAST:
                self.signal(signal.SIGCONT)
                self.signal(signal.SIGINT)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(fast_s):
                        await process.ended.wait()
            if not process.ended.is_set():
                self.signal(signal.SIGQUIT)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(KILL_AFTER_S):
                        await process.ended.wait()
        self._dying = True
        await self._clear()
        self._dying = False
        self.unexpected_exit = False
        self.exited.clear()
        self._on_change()

    async def bury(self) -> None:
        """After an unexpected exit: end what is left of the dead postmaster's children."""
        self._dying = True
        await self._clear()
        self._dying = False
        self.exited.clear()
        self._on_change()

    async def _clear(self) -> None:
        """Return when no process of the data directory is left; kill those that do not go by themselves."""
        loop = asyncio.get_running_loop()
        begun = loop.time()
        asked = False
        while (left := self._members()) != []:
            waited = loop.time() - begun
            if waited > GONE_S:
                raise PostmasterError(
                    f"processes {left or '(which ones cannot be seen)'} of the data directory cannot be killed"
                )
            if left is None:
                await asyncio.sleep(POLL_S * 5)
                continue
            number = signal.SIGKILL if waited >= KILL_AFTER_S else None if asked else signal.SIGQUIT
            asked = True
            if number is not None:
                for pid in left:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, number)
            await asyncio.sleep(POLL_S * 5)
        if self._process is not None:
            async with asyncio.timeout(GONE_S):
                await self._process.ended.wait()

    def _members(self) -> list[int] | None:
        """Return the processes of the data directory; None if /proc cannot be read now, which proves nothing."""
        try:
            return processes.members(self._layout.pgdata)
        except OSError:
            return None

    def _watch(self, pid: int, child: subprocess.Popen[bytes] | None) -> None:
        process = _Process(pid, os.pidfd_open(pid), child, asyncio.Event())
        self._process = process
        self.ready_seen = False
        self.exit_status = None
        self._began_s = asyncio.get_running_loop().time()
        asyncio.get_running_loop().add_reader(process.descriptor, self._ended, process)
        self._on_change()

    def _ended(self, process: _Process) -> None:
        """Runs when the kernel reports the end of the postmaster."""
        asyncio.get_running_loop().remove_reader(process.descriptor)
        os.close(process.descriptor)
        self.exit_status = process.child.wait() if process.child is not None else None
        self._lived_s = self.lived_s
        self._process = None
        self.ended_while_starting = not self.ready_seen
        self.ready_seen = False
        if not process.stop_ordered:
            self.unexpected_exit = True
            metrics.UNEXPECTED_EXITS.inc()
            self._dying = True
            self.exited.set()
        self._log.info("postgresql ended", pid=process.pid, status=self.exit_status, ordered=process.stop_ordered)
        process.ended.set()
        self._on_change()

    @property
    def read_no_data(self) -> bool:
        """Whether the last PostgreSQL that was started ended before it wrote down its options, and so before it read data."""
        return self._options_written() == self._options_before

    def _options_written(self) -> int | None:
        try:
            return self._layout.options.stat().st_mtime_ns
        except OSError:
            return None

    def _recorded_pid(self) -> int | None:
        try:
            return int(self._layout.pid_file.read_text().split("\n", 1)[0])
        except (OSError, ValueError):
            return None

    def _remove_locks(self) -> None:
        """Remove lock files of a dead postmaster: their pid may be another process's by now.

        Only our noded starts servers in this directory, and no process of it is left, so nobody holds them.
        """
        if self._members() != []:
            raise PostmasterError("processes of the data directory are still running")
        self._layout.pid_file.unlink(missing_ok=True)


def is_of_settings(complaint: str, *, read_no_data: bool) -> bool:
    """Return whether a start that ended with *complaint* failed for settings or for what the machine lacks.

    By then PostgreSQL has looked at the control file and at the directory itself; and of its settings pg_hba.conf comes last.
    """
    if complaint.startswith("could not load "):
        return True
    return read_no_data and not any(word in complaint for word in _OF_DATA)


def last_complaint(path: Path) -> str | None:
    """Return the last fatal message in PostgreSQL's log, or None."""
    with contextlib.suppress(OSError), path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - LOG_TAIL_BYTES))
        for line in reversed(file.read().decode(errors="replace").splitlines()):
            for word in ("FATAL:", "PANIC:"):
                if word in line:
                    return line.partition(word)[2].strip()
    return None


def remove_socket(socket_dir: Path, port: int) -> None:
    """Remove the unix socket and its lock that a killed server left; the directory is this node's alone."""
    for suffix in ("", ".lock"):
        (socket_dir / f".s.PGSQL.{port}{suffix}").unlink(missing_ok=True)
