"""The workers of a main process: started, counted for, told what to do, and started again when they end.

A worker that dies takes its own sessions with it and no others; what it had taken of the limits is free again.  One whose loop
stands still is ended.  When the main process ends, its ends of the lines close, and the workers end by that.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec

from daemonkit.logs import get_logger
from daemonkit.processes import PinnedProcess, ProcessRecord, ended
from daemonkit.racing import first_of
from daemonkit.toml import to_toml
from endpointd import metrics
from endpointd.routing.switchboard import Switchboard
from endpointd.settings import Settings
from endpointd.takeover.words import Standing, lacking
from endpointd.workers.ledger import Ledger
from endpointd.workers.line import Line, LineLost
from endpointd.workers.words import Asked, Counted, FromWorker, Left, Others, Placed, Reload, Told, Turn, Wanted

HANDS = "ENDPOINTD_WORKER"
"""The environment variable that tells a worker which descriptors it was lent."""
TELL_EVERY_S = 0.05
"""How often workers hear of one another's sessions, if anything has changed."""
START_S = 60.0
"""For the first word; modules may come from a slow disk."""
SILENCE_S = 10.0
"""A worker that says nothing for so long stands still; it says something each second."""
ROUND_S = 1.0
"""Silence is counted by our own rounds: that the machine stood still, or the main process, is held against nobody."""
UNTOLD_SESSIONS = 1000
"""A worker that dies may have begun so many since it said the last time: their numbers are not given again."""
ANSWER_S = 2.0
END_S = 9.0
"""For a worker that was told to stop: its sessions drain. Whoever stops the main process waits longer (tests/test_timing)."""
FIRST_PAUSE_S = 0.1
PAUSE_MAX_S = 5.0
SETTLED_S = 30.0
_NOT_FOR_WORKERS = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")


class Hands(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker is lent: numbers of open descriptors."""

    line: int
    settings: int
    """A file in memory of the worker's own: what the main process goes by, whatever stands in the settings file by now."""
    sockets: dict[str, list[int]]
    """Those that are listened on, by purpose."""
    first_session: int
    """The number of its first one: no session of a former worker in its place had it."""
    processes: int
    """Of the proxy, the main one among them: what the settings said when that began."""


class _Worker:
    """One worker while it lives."""

    def __init__(self, number: int, child: subprocess.Popen[bytes], line: Line[FromWorker]) -> None:
        self.number = number
        self.child = child
        self.line = line
        self.standing: Standing | None = None
        self.others: Others | None = None
        """What it was told last."""
        self.silent_s = 0.0
        """For how long we have heard nothing although we listened."""


class Crew:
    """All workers of this process; there may be none."""

    def __init__(
        self,
        count: int,
        config: Path,
        settings: Settings,
        ledger: Ledger,
        board: Switchboard,
        is_full: Callable[[], bool],
    ) -> None:
        """*count*: of workers, beside this process; by *config* they are known, by *settings* they go."""
        self._count = count
        self._config = config
        self._settings = to_toml(settings)
        self._ledger = ledger
        self._board = board
        self._is_full = is_full
        self._workers: dict[int, _Worker] = {}
        self._upcoming: dict[int, int] = {}
        """By worker's number, those of the sessions to come."""
        self._keepers: set[asyncio.Task[None]] = set()
        self._turn = Turn(do="wait")
        self._is_over = asyncio.Event()
        """Set when no worker is started any more."""
        self._ids = itertools.count()
        self._asked: dict[int, asyncio.Future[bytes]] = {}
        self._log = get_logger()
        metrics.PROCESSES.set(1)

    @property
    def sessions(self) -> int:
        """How many sessions the workers have."""
        return sum(worker.standing.sessions for worker in self._workers.values() if worker.standing is not None)

    @property
    def is_gone(self) -> bool:
        """Whether no worker lives, or will."""
        return not self._keepers

    def lacking(self, mine: Standing, incumbent: Standing) -> str | None:
        """Return what the one that knows least does not know yet and *incumbent* does; *mine* is how this process stands."""
        all_of_us = [mine, *(worker.standing for worker in self._workers.values() if worker.standing is not None)]
        if missing := self._count + 1 - len(all_of_us):
            return f"the start of {missing} of {self._count} workers"
        return next((lacks for one in all_of_us if (lacks := lacking(one, incumbent)) is not None), None)

    # What they are told

    def accept(self) -> None:
        """Have them let clients in."""
        self._say_turn(Turn(do="accept"))

    def wait(self) -> None:
        """Have them leave clients in the kernel's queue."""
        self._say_turn(Turn(do="wait"))

    def drain(self) -> None:
        """Have each end when its last session has. None is started any more."""
        self._is_over.set()
        self._say_turn(Turn(do="drain", main_pid=os.getpid()))

    def reload(self, settings: Settings) -> None:
        """Have them go by *settings*, and whoever is started from now on."""
        self._settings = to_toml(settings)
        for worker in self._workers.values():
            self._say(worker, Reload(settings=self._settings))

    def freed(self) -> None:
        """A place is free again: who said that there is none is to know at once."""
        if any(worker.others is not None and worker.others.is_full for worker in self._workers.values()):
            self._tell_others()

    async def end(self) -> None:
        """Have them end, with their sessions at their safe points."""
        self._is_over.set()
        # No signal: a service manager sends one to each process of a group, and the second is the order to drop everything.
        self._say_turn(Turn(do="end"))
        if not self._keepers:
            return
        _, late = await asyncio.wait(self._keepers, timeout=END_S)
        if late:
            self._log.error("workers did not stop in time and are killed", pids=[w.child.pid for w in self._workers.values()])
            for worker in self._workers.values():
                worker.child.kill()
            await asyncio.wait(late, timeout=END_S)

    @property
    def pids(self) -> tuple[int, ...]:
        """Of the workers."""
        return tuple(worker.child.pid for worker in self._workers.values())

    async def ask(self, what: Asked) -> dict[int, bytes]:
        """Return what each worker answers to *what*, by its pid; one that does not, or has just been started, is left out."""
        waiting: dict[int, asyncio.Future[bytes]] = {}
        ids: list[int] = []
        for worker in [each for each in self._workers.values() if each.standing is not None]:
            asked = msgspec.structs.replace(what, id=next(self._ids))
            ids.append(asked.id)
            self._asked[asked.id] = waiting[worker.child.pid] = asyncio.get_running_loop().create_future()
            self._say(worker, asked)
        try:
            if waiting:
                await asyncio.wait(waiting.values(), timeout=ANSWER_S)
            return {pid: one.result() for pid, one in waiting.items() if one.done()}
        finally:
            for each in ids:
                self._asked.pop(each, None)

    # Their lives

    async def run(self, sockets: Mapping[str, Sequence[socket.socket]]) -> None:
        """Keep them running, for ever, each with *sockets*, which this process listens on too."""
        if not self._count:
            return
        async with asyncio.TaskGroup() as group:
            for number in range(1, self._count + 1):
                keeper = group.create_task(self._keep(number, sockets), name=f"worker {number}")
                self._keepers.add(keeper)
                keeper.add_done_callback(self._keepers.discard)
            group.create_task(self._tell(), name="workers' counts")

    async def _keep(self, number: int, sockets: Mapping[str, Sequence[socket.socket]]) -> None:
        loop = asyncio.get_running_loop()
        pause_s = FIRST_PAUSE_S
        while not self._is_over.is_set():
            began = loop.time()
            status: int | str | None = None
            try:
                worker = await self._start(number, sockets)
            except OSError as error:
                status = str(error)
            else:
                status = await self._live(worker)
            if self._is_over.is_set():
                return
            metrics.WORKERS_ENDED.inc()
            pause_s = FIRST_PAUSE_S if loop.time() - began > SETTLED_S else min(2 * pause_s, PAUSE_MAX_S)
            self._log.warning("a worker has ended, with its sessions", worker=number, exit_status=status, restart_in_s=pause_s)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._is_over.wait()

    async def _start(self, number: int, sockets: Mapping[str, Sequence[socket.socket]]) -> _Worker:
        """Raises OSError."""
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                child = self._spawn(number, theirs, sockets)
            except BaseException:
                ours.close()
                raise
        line: Line[FromWorker] = await Line.over(ours, FromWorker)
        worker = self._workers[number] = _Worker(number, child, line)
        metrics.PROCESSES.set(1 + len(self._workers))
        self._log.info("worker started", worker=number, its_pid=child.pid)
        self._say(worker, self._turn)
        return worker

    def _first_session(self, number: int) -> int:
        upcoming = self._upcoming.get(number)
        return number + 1 if upcoming is None else upcoming + UNTOLD_SESSIONS * (self._count + 1)

    def _spawn(
        self, number: int, line: socket.socket, sockets: Mapping[str, Sequence[socket.socket]]
    ) -> subprocess.Popen[bytes]:
        with os.fdopen(os.memfd_create("settings"), "w", encoding="utf-8") as settings:
            settings.write(self._settings)
            settings.flush()
            hands = Hands(
                line=line.fileno(),
                settings=settings.fileno(),
                sockets={purpose: [each.fileno() for each in some] for purpose, some in sockets.items()},
                first_session=self._first_session(number),
                processes=self._count + 1,
            )
            environment = {name: value for name, value in os.environ.items() if name not in _NOT_FOR_WORKERS}
            return subprocess.Popen(
                (sys.executable, "-P", "-m", "endpointd.daemon", "--config", str(self._config), "--worker", str(number)),
                env=environment | {HANDS: msgspec.json.encode(hands).decode()},
                stdin=subprocess.DEVNULL,
                pass_fds=(hands.line, hands.settings, *(each for some in hands.sockets.values() for each in some)),
            )

    async def _live(self, worker: _Worker) -> int:
        """Hear a worker until it has ended, and return its exit status."""
        pidfd = os.pidfd_open(worker.child.pid)
        record = ProcessRecord(name="worker", pid=worker.child.pid, start_ticks=0, boot_id="", command=())
        with PinnedProcess(record, pidfd) as process:
            try:
                await first_of(self._listen(worker), self._lose_patience(worker))
            except LineLost as error:
                self._log.error(
                    "a worker stands still and is ended", worker=worker.number, its_pid=process.record.pid, reason=str(error)
                )
                process.send(signal.SIGKILL)
            finally:
                worker.line.close()
                self._workers.pop(worker.number, None)
                metrics.PROCESSES.set(1 + len(self._workers))
                self._ledger.lose(worker.number)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(END_S):
                    await ended(process)
            process.send(signal.SIGKILL)
            await ended(process)
        return worker.child.wait()

    async def _listen(self, worker: _Worker) -> None:
        """Hear *worker* until its line ends. Raises LineLost."""
        async for said in worker.line.hear():
            worker.silent_s = 0.0
            self._hear(worker, said)

    async def _lose_patience(self, worker: _Worker) -> None:
        """Raise LineLost when *worker* has said nothing for too long."""
        while worker.silent_s < (START_S if worker.standing is None else SILENCE_S):
            await asyncio.sleep(ROUND_S)
            worker.silent_s += ROUND_S
        raise LineLost(f"it has said nothing for {worker.silent_s:g} s")

    def _hear(self, worker: _Worker, said: FromWorker) -> None:
        match said:
            case Counted():
                worker.standing, self._upcoming[worker.number] = said.standing, said.upcoming
                self._ledger.count(worker.number, said.load)
            case Wanted():
                place = self._ledger.take(worker.number, said.session, *said.names, self._board.limits)
                self._say(worker, Placed(session=said.session, place=place))
            case Left():
                self._ledger.give_back(worker.number, said.session)
                self.freed()
            case Told():
                waiting = self._asked.get(said.id)
                if waiting is not None and not waiting.done():
                    waiting.set_result(said.body)

    async def _tell(self) -> None:
        """Tell each what the others have, as it changes."""
        while True:
            self._ledger.count(0, dict(self._board.load))
            self._board.load_elsewhere = self._ledger.load_beside(0)
            self._tell_others()
            await asyncio.sleep(TELL_EVERY_S)

    def _tell_others(self) -> None:
        is_full = self._is_full()
        for worker in self._workers.values():
            others = Others(load=self._ledger.load_beside(worker.number), is_full=is_full)
            if others != worker.others:
                worker.others = others
                self._say(worker, others)

    def _say_turn(self, turn: Turn) -> None:
        self._turn = turn
        for worker in self._workers.values():
            self._say(worker, turn)

    def _say(self, worker: _Worker, said: msgspec.Struct) -> None:
        try:
            worker.line.say(said)
        except LineLost:
            worker.child.kill()
