"""One supervised program: started, adopted, restarted with growing pauses, stopped.

Every end is followed by a restart, the first one at once.  The pauses grow, but after a program that served before it ended
they stay short: an outage may be waiting for it.  A program that ended with exit code 2 refuses its settings, or a file they
name: it is reported as failed, with its reason, and tried again all the same, because files are put back and settings mended.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping
from pathlib import Path
from typing import IO, Any

from daemonkit.exits import Failure
from daemonkit.logfiles import last_lines
from daemonkit.logs import get_logger
from daemonkit.processes import (
    PinnedProcess,
    ProcessRecord,
    ended,
    find_by_command,
    find_recorded,
    parent_of,
    pin,
    start_ticks_of,
    variables_of,
    waits_for_disk,
    write_record,
)
from daemonkit.proctable import boot_id
from daemonkit.racing import first_of
from deployment.local.layout import Layout
from deployment.local.plan import PROXY_PROGRAMS, Plan, PortUse
from deployment.local.postmaster import postmaster_of
from pgtopology.supervision import ProgramReport, ProgramState
from supervisor.commands import program_command
from supervisor.patience import patience_rounds, pause_after, start_patience_rounds
from supervisor.ports import Conflict, conflicts, is_free
from supervisor.relieved import Relieved, find_draining
from supervisor.watchdog import SPEAKS_BY, Silence

EXIT_USAGE = 2
RELIEF_S = 60.0
"""For a process that is to take over: it is started, and must learn what the one that serves knows."""
COMPLAINT = "cannot serve"
"""The event of the line by which a daemon says why it ends (daemonkit.program)."""
_REFUSAL = re.compile(r"[a-z_]+: ")
"""How the line begins by which it refuses its settings (daemonkit.program)."""


def find_program(layout: Layout, name: str) -> PinnedProcess | None:
    """Return the running process of the program called *name*, pinned, or None."""
    recorded = find_recorded(layout.record(name))
    if recorded is not None:
        return recorded
    found = find_by_command(name, program_command(layout, name))
    return pin(found) if found is not None else None


def own_pids(layout: Layout, plan: Plan) -> set[int]:
    """Return the pids of every program of the cluster that runs now, and of its PostgreSQL servers."""
    pids: set[int] = set()
    for name in {*plan.programs, *(node.name for node in plan.everybody)}:
        process = find_program(layout, name)
        if process is not None:
            with process:
                pids.add(process.record.pid)
    for process in itertools.chain.from_iterable(find_draining(layout, proxy.program) for proxy in plan.proxies):
        with process:
            pids.add(process.record.pid)
    postmasters = (postmaster_of(layout.pgdata(node.name)) for node in plan.everybody)
    return pids | {pid for pid in postmasters if pid is not None}


def conflicts_with_others(layout: Layout, plan: Plan, more: Iterable[PortUse] = ()) -> list[Conflict]:
    """Return the ports of the cluster, and of *more* of its, that somebody else holds.

    Our own processes are looked for after the ports, because a node may have started in between; a server's newborn child has
    its parent's sockets open for a moment.
    """
    taken = conflicts((*plan.ports, *more))
    own = own_pids(layout, plan) if taken else set[int]()
    return [conflict for conflict in taken if not _is_ours(conflict, own)]


def _is_ours(conflict: Conflict, own: set[int]) -> bool:
    """Return whether one of our processes, *own*, holds the port, or nobody any more."""
    pid = conflict.holder.pid
    if pid is None:
        return is_free(conflict.use)
    return pid in own or parent_of(pid) in own


class Program:
    """The supervisor's view of one program; `live` is its task."""

    def __init__(
        self,
        layout: Layout,
        name: str,
        environment: Mapping[str, str],
        on_reaped: Callable[[], None],
        before_start: Callable[[], None],
    ) -> None:
        self.name = name
        self._layout = layout
        self._command = program_command(layout, name)
        self._environment = environment
        self._on_reaped = on_reaped
        self._before_start = before_start
        self._wanted = asyncio.Event()
        self._wanted.set()
        self._changed = asyncio.Event()
        self._state = ProgramState.STOPPED
        self._process: PinnedProcess | None = None
        self._child: subprocess.Popen[bytes] | None = None
        self._restarts = 0
        self._last_exit: int | None = None
        self._refuses = False
        self._reason = ""
        self._mute_starts = 0
        """In a row, those that were given up before they had said a word."""
        self._given_up: PinnedProcess | None = None
        self._relief: asyncio.Event = asyncio.Event()
        """Set when another process has taken the place of the one that is waited for."""
        self._is_relieving = False
        self.relieved = Relieved(name)
        """The processes of it that were relieved."""
        self._log = get_logger(name=name)

    @property
    def pid(self) -> int | None:
        """The pid while it runs."""
        return self._process.record.pid if self._process is not None else None

    @property
    def report(self) -> ProgramReport:
        """What there is to tell."""
        return ProgramReport(
            name=self.name,
            # It is tried again and again: the answer must not depend on the moment.
            state=ProgramState.FAILED if self._refuses and self._wanted.is_set() else self._state,
            pid=self.pid,
            restarts=self._restarts,
            adopted=self._process is not None and self._child is None,
            last_exit=self._last_exit,
            reason=self._reason,
            draining=self.relieved.pids,
        )

    def note_silence(self, silence: Silence) -> None:
        """Take note of how long it has said nothing; end it if that is too long: it is started again.

        Its process alone is signalled, so PostgreSQL goes on. First by SIGABRT, for the traceback; what is frozen needs more.
        """
        if silence.has_spoken:
            # Its loop turned: it has accepted its settings.
            self._refuses, self._reason, self._mute_starts = False, "", 0
            patience = patience_rounds(self.name)
        else:
            patience = start_patience_rounds(self._mute_starts)
        process = self._process
        if process is None or not self._wanted.is_set() or waits_for_disk(process.record.pid):
            return
        is_given_up = process is self._given_up
        if not is_given_up and (silence.rounds < patience or not (silence.has_spoken or self._is_to_speak(process))):
            return
        if not is_given_up:
            self._given_up = process
            self._mute_starts += not silence.has_spoken
        what = "its loop stands still" if silence.has_spoken else "it has not said a word since its start"
        number = signal.SIGKILL if is_given_up else signal.SIGABRT
        self._log.error(f"{what} and it is ended", silent_s=silence.rounds, signal=number.name.removeprefix("SIG"))
        process.send(number)

    def _is_to_speak(self, process: PinnedProcess) -> bool:
        """Return whether *process* was started so that it speaks: an adopted one may be of a version that never did."""
        return self._child is not None or SPEAKS_BY in variables_of(process.record.pid)

    def start(self) -> None:
        """Want it running."""
        self._wanted.set()
        self._changed.set()

    def reload(self) -> None:
        """Have it read its settings anew; one that is down reads them when it starts."""
        self.relieved.reload()
        if self._process is not None:
            self._process.send(signal.SIGHUP)

    def let_end(self) -> None:
        """Want it stopped: do not start it again when it ends. Does not signal it."""
        self._wanted.clear()
        self._changed.set()

    async def live(self) -> None:
        """Keep the program running as long as it is wanted; ends only by cancellation."""
        pause_s = 0.0
        if self.name in PROXY_PROGRAMS:
            for draining in find_draining(self._layout, self.name):
                self.relieved.take(draining)
        while True:
            await self._wanted.wait()
            self._changed.clear()
            process = find_program(self._layout, self.name)
            self._child = None
            if process is not None:
                self._log.info("adopted", pid=process.record.pid)
            else:
                try:
                    self._child, process = self._spawn()
                except OSError as error:
                    # For want of processes, memory or descriptors: the others are supervised on.
                    pause_s = pause_after(0.0, pause_s)
                    self._state = ProgramState.PAUSING
                    self._log.error("cannot be started", reason=str(error), again_in_s=pause_s)
                    await self._pause(pause_s)
                    continue
            self._process, self._state = process, ProgramState.RUNNING
            started_at = time.monotonic()
            self._remember(process.record)
            try:
                await self._until_ended()
            finally:
                self._process.close()
                self._process = None
            self._last_exit = self._reap()
            self._layout.record(self.name).unlink(missing_ok=True)
            if not self._wanted.is_set():
                self._state = ProgramState.STOPPED
                self._refuses, self._reason = False, ""
                self._log.info("stopped", exit_status=self._last_exit)
                continue
            refuses = self._last_exit == EXIT_USAGE
            pause_s = pause_after(0.0 if refuses else time.monotonic() - started_at, pause_s)
            reason = self._why_it_ended()
            if not refuses:
                self._log.warning("ended unexpectedly", exit_status=self._last_exit, restart_in_s=pause_s)
            elif not self._refuses or reason != self._reason:
                self._log.error("refuses its settings, and is tried again now and then", reason=reason)
            self._refuses, self._reason = refuses, reason
            self._restarts += 1
            self._state = ProgramState.PAUSING
            await self._pause(pause_s)

    async def relieve(self, ready: Callable[[int], Coroutine[Any, Any, None]]) -> None:
        """Start another process, and go by that once it serves; the former one ends by itself when its sessions have.

        *ready* returns when a pid says that it serves. Raises Failure if that does not come about: the former one serves on.
        """
        former = self._process
        if former is None or self._is_relieving:
            raise Failure(f"{self.name} is {'being relieved' if self._is_relieving else self._state} now", hint="try again")
        self._is_relieving = True
        try:
            child, new = self._spawn()
            why_not = await self._why_not_serving(new, ready)
            if why_not is not None:
                child.returncode = 0  # it is reaped as an orphan is
                raise Failure(f"{self.name} {former.record.pid} serves on: {why_not}")
            # By a descriptor of its own: the other one is watched by `live` until it hears of this.
            self.relieved.take(PinnedProcess(former.record, os.dup(former.fileno())))
            if self._child is not None:
                self._child.returncode = 0
            self._process, self._child = new, child
            self._remember(new.record)
            self._relief.set()
            self._log.info("relieved", pid=new.record.pid, former=former.record.pid)
        except OSError as error:
            raise Failure(f"{self.name} cannot be started another time: {error}") from error
        finally:
            self._is_relieving = False

    async def _why_not_serving(self, new: PinnedProcess, ready: Callable[[int], Coroutine[Any, Any, None]]) -> str | None:
        """Return None when *new* has come to serve; else it is ended, and this is why it has not, as far as it has said."""
        outcome = await first_of(ready(new.record.pid), ended(new), timeout_s=RELIEF_S)
        if outcome == 0:
            return None
        new.send(signal.SIGKILL)
        await ended(new)
        has_ended = "the new process has ended, see its log"
        return self._last_complaint() or (has_ended if outcome == 1 else f"the new process did not serve within {RELIEF_S:g} s")

    async def _until_ended(self) -> None:
        """Return when the process has ended that is the program then: others may take its place meanwhile."""
        while (process := self._process) is not None:
            self._relief.clear()
            await first_of(ended(process), self._relief.wait())
            if self._process is process:
                return
            process.close()

    def _last_complaint(self) -> str:
        """Return what was said last in the log about why something cannot be; the process that serves writes there too."""
        said = last_lines(self._layout.log(self.name), 20)
        return " ".join([line for line in said if COMPLAINT in line or _REFUSAL.match(line)][-1:])

    def _why_it_ended(self) -> str:
        """Return in words why it ended the last time, as far as that can be known."""
        if self._last_exit is None:
            return ""
        if self._last_exit < 0:
            with contextlib.suppress(ValueError):
                return f"ended by {signal.Signals(-self._last_exit).name}"
        said = " ".join(last_lines(self._layout.log(self.name), 1))
        return said or f"it ended with exit status {self._last_exit} and left no word"

    def _remember(self, record: ProcessRecord) -> None:
        try:
            write_record(self._layout.record(self.name), record)
        except OSError as error:
            # A full disk must not end the supervision; without its record a program is still found by its command line.
            self._log.error("cannot be recorded", reason=str(error))

    async def _pause(self, pause_s: float) -> None:
        try:
            async with asyncio.timeout(pause_s):
                await self._changed.wait()
        except TimeoutError:
            return
        if not self._wanted.is_set():
            self._state = ProgramState.STOPPED

    def _spawn(self) -> tuple[subprocess.Popen[bytes], PinnedProcess]:
        self._before_start()
        with self._open_log() as log:
            child = subprocess.Popen(
                self._command,
                cwd=self._layout.root,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        pid = child.pid
        self._log.info("started", pid=pid)
        # Our own child cannot vanish before we reap it, so the pid is safe to open. Its command line is taken from what we
        # asked for: the kernel shows none for a moment after exec.
        record = ProcessRecord(
            name=self.name, pid=pid, start_ticks=start_ticks_of(pid) or 0, boot_id=boot_id(), command=self._command
        )
        return child, PinnedProcess(record, os.pidfd_open(pid))

    def _open_log(self) -> IO[bytes]:
        """Return the program's log file; where a full disk gives none the program runs without."""
        try:
            return self._layout.log(self.name).open("ab", buffering=0)
        except OSError as error:
            self._log.error("log file cannot be opened; what the program says is lost", reason=str(error))
            return Path(os.devnull).open("ab", buffering=0)

    def _reap(self) -> int | None:
        """Return the exit status of our child, or None for an adopted process, whose parent is another."""
        status = self._child.wait() if self._child is not None else None
        self._child = None
        self._on_reaped()
        return status
