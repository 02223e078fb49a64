"""The supervisor: one process per local cluster, parent of every other process of it.

It holds the lock on the data directory, starts nodeds, manager and proxy each in a session of its own, restarts what ends,
and takes orders on a Unix socket.  It is a child subreaper, so that a PostgreSQL whose noded was killed becomes its child and
is reaped at once.  It knows processes and files; it knows nothing of PostgreSQL, epochs or who leads.

Killed with SIGKILL it leaves the others alive; the next `up` starts a new supervisor, which adopts them.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Coroutine
from datetime import UTC, datetime
from typing import Any

import msgspec

from daemonkit.exits import Failure
from daemonkit.lifecycle import Lifecycle
from daemonkit.linesocket import LINE_BYTES_MAX, peer_uid
from daemonkit.logrotation import rotate
from daemonkit.logs import get_logger
from daemonkit.processes import describe_process, write_record
from deployment.local.directory import leave_no_sockets, make_private, read_plan, write_plan
from deployment.local.layout import Layout
from deployment.local.plan import MANAGER_PROGRAM, PROXY_PROGRAMS, SUPERVISOR_PROGRAM, Plan
from pgtopology.act import act_headers
from pgtopology.supervision import Answer, Order
from supervisor.changing import Changes
from supervisor.commands import program_environment
from supervisor.keepsakes import Keepsakes, cluster_keepsakes
from supervisor.program import Program
from supervisor.renewing import renew
from supervisor.stopping import ask_writer, stop_cluster
from supervisor.watchdog import ROUND_S, Watchdog

_LOG_CHECK_S = 5.0
_ORDER_READ_S = 5.0
_CERTIFICATES_CHECK_S = 3600.0


class Supervisor:
    """The programs of one cluster and the orders about them."""

    def __init__(self, layout: Layout, plan: Plan, life: Lifecycle) -> None:
        self._layout = layout
        self._watchdog = Watchdog(layout.notify_socket)
        self._environment = {**program_environment(), **self._watchdog.environment}
        self._programs: dict[str, Program] = {}
        self._lives: dict[str, asyncio.Task[None]] = {}
        self._tasks: asyncio.TaskGroup | None = None
        self._changes = Changes(layout, plan, self, self._spawn)
        self._keepsakes = Keepsakes(lambda: cluster_keepsakes(layout, self._changes.plan))
        self._said_of_plan = ""
        self._server: asyncio.Server | None = None
        self._stopping = life.stopping
        self._stopped = asyncio.Event()
        self._harsh = asyncio.Event()
        life.at_second_stop = self._harsh.set
        self._life = life
        self._progress: list[str] = []
        """What has been done of the shutdown; a handful of lines."""
        self._followers = 0
        """Connections that are still being told of the shutdown."""
        self._progressed = asyncio.Condition()
        self._log = get_logger()

    async def run(self) -> None:
        """Supervise until a shutdown was ordered and carried out."""
        asyncio.get_running_loop().add_signal_handler(signal.SIGCHLD, self._reap_orphans)
        self._restore_files()
        await self._listen()
        me = describe_process(SUPERVISOR_PROGRAM, os.getpid())
        assert me is not None
        try:
            write_record(self._layout.record(SUPERVISOR_PROGRAM), me)
        except OSError as error:
            self._log.error("the supervisor cannot be recorded", reason=str(error))
        async with asyncio.TaskGroup() as self._tasks:
            for name in self._changes.plan.programs:
                self.begin(name)
            work = self._rotate_logs(), self._watch(), self._renew_certificates()
            chores = [self._tasks.create_task(each) for each in work]
            # Programs look for themselves when their tasks first run.
            await asyncio.sleep(0)
            for program in self._programs.values():
                if program.report.adopted:
                    # Settings and tokens were written anew, maybe others, with nodes that nobody could tell the manager of.
                    program.reload()
            self._changes.resume()
            self._life.notify_ready()
            self._log.info("supervising", programs=list(self._programs), pid=os.getpid())
            await self._stopping.wait()
            await self._changes.end()
            await self._shut_down()
            for task in (*self._lives.values(), *chores):
                task.cancel()
        if self._server is not None:
            self._server.close()
        self._watchdog.close()
        for path in (self._layout.control_socket, self._layout.notify_socket, self._layout.record(SUPERVISOR_PROGRAM)):
            path.unlink(missing_ok=True)
        leave_no_sockets(self._layout)

    async def _listen(self) -> None:
        """Take orders, on a new socket if the path of the former is gone: /tmp is cleaned at times. Raises OSError, Failure."""
        path = self._layout.control_socket
        if self._server is not None:
            if path.exists():
                return
            self._log.warning("the socket for orders was gone", path=str(path))
            self._server.close()
        make_private(self._layout.sockets)
        path.unlink(missing_ok=True)
        self._server = await asyncio.start_unix_server(self._serve, path, limit=LINE_BYTES_MAX)
        path.chmod(0o600)

    def begin(self, name: str) -> None:
        """Keep the program called *name* running from now on."""
        program = self._programs.get(name)
        if program is not None:
            program.start()
            return
        assert self._tasks is not None, "programs begin when the supervisor runs"
        program = self._programs[name] = Program(self._layout, name, self._environment, self._reap_orphans, self._restore_files)
        self._lives[name] = self._tasks.create_task(program.live(), name=name)

    def let_end(self, name: str) -> None:
        """Do not start the program called *name* again when it ends."""
        if name in self._programs:
            self._programs[name].let_end()

    async def forget(self, name: str) -> None:
        """Supervise the program called *name*, which has ended, no more."""
        life = self._lives.pop(name, None)
        if life is not None:
            life.cancel()
            await asyncio.wait({life})
        self._programs.pop(name, None)

    def reload_manager(self) -> None:
        """Have the manager read its nodes anew; one that is down reads them when it starts."""
        self._programs[MANAGER_PROGRAM].reload()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        assert self._tasks is not None, "work begins when the supervisor runs"
        return self._tasks.create_task(work)

    async def _shut_down(self) -> None:
        plan = self._changes.plan
        writer = await ask_writer(self._layout, plan)
        for program in self._programs.values():
            program.let_end()
        lines: asyncio.Queue[str | None] = asyncio.Queue()

        async def publish() -> None:
            while (line := await lines.get()) is not None:
                self._log.info("shutting down", step=line)
                async with self._progressed:
                    self._progress.append(line)
                    self._progressed.notify_all()

        async with asyncio.TaskGroup() as group:
            group.create_task(publish())
            await stop_cluster(self._layout, plan, writer, lines.put_nowait, self._harsh)
            lines.put_nowait(None)
        async with self._progressed:
            self._stopped.set()
            self._progressed.notify_all()
            # Whoever waits on the socket gets the last line before the loop ends.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_ORDER_READ_S):
                    await self._progressed.wait_for(lambda: self._followers == 0)

    async def _rotate_logs(self) -> None:
        while True:
            await asyncio.sleep(_LOG_CHECK_S)
            for path in (*(self._layout.log(name) for name in self._programs), self._layout.log(SUPERVISOR_PROGRAM)):
                if await asyncio.to_thread(rotate, path):
                    self._log.info("log file rotated", file=path.name)

    async def _renew_certificates(self) -> None:
        while True:
            await asyncio.sleep(_CERTIFICATES_CHECK_S)
            try:
                if await renew(self._layout, self._changes.plan, datetime.now(UTC)):
                    self._log.info("certificates renewed")
            except (OSError, ValueError) as error:
                self._log.error("certificates that end soon cannot be renewed", reason=str(error))

    async def _watch(self) -> None:
        """End programs whose loop stands still, and bring back files and sockets that somebody removed."""
        said = ""
        while True:
            self._restore_files(ends_round=True)
            try:
                await self._listen()
                self._watchdog.listen()
                said = ""
            except (OSError, Failure) as error:
                if str(error) != said:
                    self._log.error("the supervisor cannot listen; it is tried again", reason=str(error))
                said = str(error)
            await asyncio.sleep(ROUND_S)
            pids = {program.pid for program in self._programs.values() if program.pid is not None}
            silences = self._watchdog.end_round(pids.union(*(program.relieved.pids for program in self._programs.values())))
            for program in self._programs.values():
                program.relieved.note_silences(silences)
                if (silence := silences.get(program.pid or 0)) is not None:
                    program.note_silence(silence)

    def _restore_files(self, *, ends_round: bool = False) -> None:
        """Put damaged files back."""
        written = self._keepsakes.restore(ends_round=ends_round)
        if self._layout.verifiers in written:
            # Whoever has read the wrong ones meanwhile reads them again.
            for program in self._programs.values():
                program.reload()
        self._restore_plan()

    def _restore_plan(self) -> None:
        """Have the plan on disk be the one that is carried out, which nobody but the supervisor changes."""
        path = self._layout.plan
        with contextlib.suppress(Failure):
            if read_plan(self._layout) == self._changes.plan:
                return
        try:
            write_plan(self._layout, self._changes.plan)
        except OSError as error:
            if str(error) != self._said_of_plan:
                self._log.error("the plan is damaged and cannot be put back", path=str(path), reason=str(error))
            self._said_of_plan = str(error)
        else:
            self._said_of_plan = ""
            self._log.warning("the plan was damaged and is as it was", path=str(path))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if peer_uid(writer.get_extra_info("socket").fileno()) not in (os.getuid(), 0):
                return
            async with asyncio.timeout(_ORDER_READ_S):
                line = await reader.readline()
            try:
                wanted = msgspec.json.decode(line, type=Order)
            except msgspec.DecodeError as error:
                await self._answer(writer, Answer(error=f"not an order: {error}"))
                return
            await self._obey(wanted, writer)
        except (OSError, TimeoutError, ValueError) as error:
            self._log.debug("a control connection ended", reason=str(error))
        finally:
            writer.close()

    async def _obey(self, wanted: Order, writer: asyncio.StreamWriter) -> None:
        match wanted.do:
            case "list":
                # Who has just written some asks, so that from now on these are what is put back.
                self._restore_files()
                reports = tuple(program.report for program in self._programs.values())
                await self._answer(writer, Answer(done=True, pid=os.getpid(), programs=reports))
            case "start" | "stop":
                program = self._programs.get(wanted.name or "")
                if program is None:
                    await self._answer(writer, Answer(error=f'no program is called "{wanted.name}"'))
                    return
                if wanted.do == "start":
                    program.start()
                else:
                    program.let_end()
                    if program.pid is not None:
                        os.kill(program.pid, signal.SIGTERM)
                await self._answer(writer, Answer(done=True, programs=(program.report,)))
            case "relieve":
                await self._answer(writer, await self._relieve(wanted.name or ""))
            case "add" | "remove":
                await self._answer(writer, await self._change(wanted))
            case "hurry":
                self._harsh.set()
                await self._answer(writer, Answer(done=True))
            case "shutdown":
                self._stopping.set()
                await self._follow_shutdown(writer)

    async def _relieve(self, name: str) -> Answer:
        program = self._programs.get(name)
        if program is None or name not in PROXY_PROGRAMS:
            return Answer(error=f'"{name}" cannot be relieved: only a proxy hands over to another process')
        try:
            await program.relieve(self._watchdog.wait_until_ready)
        except Failure as failure:
            return Answer(error=failure.line)
        return Answer(done=True, programs=(program.report,))

    async def _change(self, wanted: Order) -> Answer:
        try:
            if wanted.do == "add":
                add = self._changes.propose if wanted.rehearse else self._changes.add
                return Answer(done=True, node=add(wanted.name, wanted.zone))
            if wanted.marked and not self._changes.knows(wanted.name or ""):
                return Answer(done=True, gone=True)
            said = act_headers(wanted.operator, wanted.command)
            await self._changes.remove(wanted.name or "", purge=wanted.purge, marked=wanted.marked, headers=said)
        except Failure as failure:
            return Answer(error=failure.line)
        return Answer(done=True)

    async def _follow_shutdown(self, writer: asyncio.StreamWriter) -> None:
        self._followers += 1
        try:
            told = 0
            while True:
                async with self._progressed:
                    await self._progressed.wait_for(lambda: len(self._progress) > told or self._stopped.is_set())  # noqa: B023
                    fresh, finished = self._progress[told:], self._stopped.is_set()
                for line in fresh:
                    await self._answer(writer, Answer(progress=line))
                told += len(fresh)
                if finished:
                    await self._answer(writer, Answer(done=True))
                    return
        finally:
            async with self._progressed:
                self._followers -= 1
                self._progressed.notify_all()

    @staticmethod
    async def _answer(writer: asyncio.StreamWriter, answer: Answer) -> None:
        writer.write(msgspec.json.encode(answer) + b"\n")
        async with asyncio.timeout(_ORDER_READ_S):
            await writer.drain()

    def _reap_orphans(self) -> None:
        """Reap processes that became ours when their parents died; programs are reaped by their own tasks."""
        ours = {program.pid for program in self._programs.values()}
        while True:
            try:
                found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if found is None or found.si_pid in ours:
                return
            with contextlib.suppress(ChildProcessError):
                os.waitpid(found.si_pid, 0)
            self._log.info("reaped an orphan", pid=found.si_pid)
