"""The life of a node: started, watched over, stopped; and the tasks that outlive a single order.

Orders (see `acts.orders`) take turns at PostgreSQL; so does everything here that touches it.  Nothing here decides what the
cluster should do: it only keeps the node in agreement with its durable state, and ends what is left of a dead PostgreSQL.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping

from msgspec.structs import replace

from daemonkit.logs import get_logger
from noded.acts.acts import Acts
from noded.data.copies import Copies
from noded.hands import promotion
from noded.hands.hands import Hands
from noded.housekeeping import logins
from noded.housekeeping.audit import Audit
from noded.housekeeping.housekeeping import Housekeeping
from noded.housekeeping.logins import Logins
from noded.housekeeping.vouching import VouchingWatch
from noded.position import asking
from noded.postgres.disk_space import lack_of_space
from noded.postgres.instance import STATEMENTS, Instance
from noded.postgres.postmaster import PostmasterError, last_complaint
from noded.report import gatherer
from noded.report import heartbeat as beat
from noded.report.credentials import CredentialReader
from noded.report.findings import Findings
from noded.report.heartbeat import Heartbeat
from noded.report.last_commit import leaving
from noded.report.reporter import Reporter
from pgtopology.orders import StopMode

LAST_WORD_S = 0.05
"""For the last observation to reach whoever listens before the server closes."""


class Node:
    """One node. Orders can be given once `started_up` is set, while `run` runs."""

    def __init__(
        self, *, instance: Instance, heartbeat: Heartbeat, reporter: Reporter, acts: Acts, passwords: Mapping[str, str]
    ) -> None:
        self.instance = instance
        self.state = instance.state
        self.heartbeat = heartbeat
        self.reporter = reporter
        self.acts = acts
        self.memory = memory = acts.memory
        self.turn = asyncio.Lock()
        """Held by whoever changes what PostgreSQL is."""
        self.housekeeping = Housekeeping(instance, reporter.gatherer, memory, self.turn, reporter.poke, self._start)
        self.hands = Hands(
            instance=instance,
            heartbeat=heartbeat,
            gatherer=reporter.gatherer,
            copies=Copies(instance, memory, passwords),
            housekeeping=self.housekeeping,
            turn=self.turn,
            poke=reporter.poke,
        )
        self.audit = Audit(instance, reporter.gatherer, passwords, reporter.poke)
        self.logins = Logins(instance, reporter.poke)
        self.credentials = CredentialReader(instance, reporter.poke)
        self.vouching = VouchingWatch(instance, self.turn)
        reporter.findings = self._findings
        sessions = instance.sessions
        sessions.control.statements += [*STATEMENTS, *asking.STATEMENTS, *promotion.STATEMENTS, *logins.STATEMENTS]
        sessions.observer.statements += gatherer.STATEMENTS
        sessions.heartbeat.statements += beat.STATEMENTS
        self.started_up = asyncio.Event()
        self._log = get_logger(node=self.state.value.node)

    async def run(self, stopping: asyncio.Event) -> None:
        """Take up the node, serve until *stopping* is set, and stop PostgreSQL in good order."""
        async with asyncio.TaskGroup() as tasks:
            self.hands.tasks = tasks
            await self.hands.carry_out(self.acts.startup.start_up())
            await self.reporter.gatherer.gather()
            loops = (
                self.reporter.run(),
                self.reporter.deafness.run(),
                self.reporter.sync_trial.run(self.reporter.poke),
                self.reporter.upstream_port.run(self.reporter.poke),
                self.reporter.replay_lag.run(),
                self.heartbeat.run(),
                self.housekeeping.run(),
                self.housekeeping.keep_log(),
                self.housekeeping.keep_names(),
                self.audit.run(),
                self.logins.run(),
                self.credentials.run(),
                self.vouching.run(),
                self._bury_the_dead(),
                self._police(),
                self._watch_wholeness(),
            )
            running = [tasks.create_task(loop) for loop in loops]
            self.started_up.set()
            await stopping.wait()
            self.memory.closing = True
            for task in (self.hands.promotion, self.hands.work):
                if task is not None:
                    task.cancel()
            async with self.turn:
                left = leaving(self.heartbeat, asyncio.get_running_loop().time())
                self.heartbeat.end()
                if self.memory.blocked is None:
                    await self.instance.stop(StopMode.FAST)
                    with contextlib.suppress(OSError):
                        # Only what is told of the outage depends on it.
                        self.state.store(replace(self.state.value, left=left))
            # That PostgreSQL is down is evidence, and saves the manager a wait for silence.
            self.reporter.poke()
            await asyncio.sleep(LAST_WORD_S)
            for task in running:
                task.cancel()

    def _findings(self) -> Findings:
        """Return what those that look after this server have found out."""
        chores = self.housekeeping
        return Findings(
            slots_kept=chores.slots.members or frozenset(),
            slots_lacking=chores.slots.lacking,
            user_slots=chores.slots.users,
            horizon=chores.horizon.report(asyncio.get_running_loop().time()),
            outside=chores.outside,
            relaxations=self.audit.relaxations.texts,
            repairs=(*self.audit.roles.texts, *chores.impostors.texts),
            login_problem=self.logins.problem,
            login_spared=self.logins.spared,
            locked_elsewhere=self.logins.locked_elsewhere,
            role_notes=self.credentials.notes,
        )

    async def _start(self) -> None:
        """Start PostgreSQL, whose turn the caller holds."""
        await self.hands.carry_out(self.acts.running.start())

    async def _bury_the_dead(self) -> None:
        """After each exit that nobody ordered, end what is left of PostgreSQL, at once."""
        postmaster = self.instance.postmaster
        while True:
            await postmaster.exited.wait()
            self._log.warning("postgresql ended although nobody ordered it", status=postmaster.exit_status)
            self.heartbeat.end()
            self.instance.sessions.drop()
            complaint = self._complaint()
            self.instance.note_end(complaint)
            if postmaster.ended_while_starting:
                self.memory.problem = f"PostgreSQL ended while it was starting: {complaint}"
            elif self.instance.crashes.failures > 1:
                self.memory.problem = f"PostgreSQL ended {self.instance.crashes.failures} times in a row: {complaint}"
            async with self.turn:
                try:
                    if postmaster.exited.is_set():
                        await postmaster.bury()
                except PostmasterError as error:
                    self.memory.problem = str(error)
                    postmaster.exited.clear()

    def _complaint(self) -> str:
        """Return why PostgreSQL has ended, as far as can be told."""
        return (
            lack_of_space(self.instance)
            or last_complaint(self.instance.layout.log)
            or f"exit status {self.instance.postmaster.exit_status}"
        )

    async def _police(self) -> None:
        """Look after who is a primary here, for ever."""
        while True:
            await self.reporter.gatherer.next_round()
            await self.hands.carry_out(self.acts.police.look())

    async def _watch_wholeness(self) -> None:
        """Prove wholeness whenever it is missing, for ever."""
        while True:
            await self.reporter.gatherer.next_round()
            await self.hands.carry_out(self.acts.wholeness.look())
