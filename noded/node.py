"""The life of a node: taken up, watched over, put to rest; and the tasks that outlive a single order.

Orders (see `orders`) take turns at PostgreSQL; so does everything here that touches it.  Nothing here decides what the
cluster should do: it only keeps the node in agreement with its durable state, and buries what died.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine, Mapping

from msgspec.structs import replace

from daemonkit.logs import get_logger
from noded import fence, logins, observe, promise, promotion
from noded import heartbeat as beat
from noded.audit import Audit
from noded.backoff import Backoff
from noded.copies import FAILURES, Copies
from noded.heartbeat import Heartbeat
from noded.instance import STATEMENTS, Instance
from noded.lastword import leaving
from noded.logins import Logins
from noded.postmaster import PostmasterError, last_complaint
from noded.promise import Work
from noded.promotion import PromotionError, promote
from noded.reporter import Doing, Reporter
from noded.room import lack_of_room
from noded.sessions import SessionError
from noded.slots import ensure_slots
from noded.takeup import take_up
from noded.upkeep import Upkeep
from noded.wholeness import watch_wholeness
from pgtopology.node import Role
from pgtopology.orders import PromoteOrder, StopMode
from pgtopology.quorum import Voters, synchronous_standby_names

SLOTS_TIMEOUT_S = 1.0
LAST_WORD_S = 0.05
"""For the last observation to reach whoever listens before the server closes."""
MUTE_MS = 10_000
"""A server that answers no session for so long after its start may be replaced by order, although nobody can ask what it is."""


class Node:
    """One node. Orders can be given once `taken_up` is set, while `run` runs."""

    def __init__(
        self,
        *,
        instance: Instance,
        heartbeat: Heartbeat,
        reporter: Reporter,
        doing: Doing,
        passwords: Mapping[str, str],
    ) -> None:
        self.instance = instance
        self.state = instance.state
        self.heartbeat = heartbeat
        self.reporter = reporter
        self.doing = doing
        self.turn = asyncio.Lock()
        """Held by whoever changes what PostgreSQL is."""
        self.copies = Copies(instance, doing, self.turn, passwords)
        self.copying = Backoff(first_s=2.0, max_s=60.0, free=1)
        """Failures of long work in a row."""
        self.upkeep = Upkeep(instance, reporter.gatherer, doing, self.turn, reporter.poke)
        reporter.user_slots = lambda: self.upkeep.slots.users
        reporter.horizon = lambda: self.upkeep.horizon.report(asyncio.get_running_loop().time())
        reporter.outside = lambda: self.upkeep.outside
        reporter.slots_kept = lambda: self.upkeep.slots.members or frozenset()
        reporter.slots_lacking = lambda: self.upkeep.slots.lacking
        self.audit = Audit(instance, reporter.gatherer, passwords, reporter.poke)
        self.logins = Logins(instance, reporter.poke)
        reporter.relaxations = lambda: self.audit.relaxations.texts
        reporter.repairs = lambda: (*self.audit.roles.texts, *self.upkeep.impostors.texts)
        reporter.login_problem = lambda: self.logins.problem
        reporter.login_spared = lambda: self.logins.spared
        sessions = instance.sessions
        sessions.control.statements += [*STATEMENTS, *fence.STATEMENTS, *promotion.STATEMENTS, *logins.STATEMENTS]
        sessions.observer.statements += observe.STATEMENTS
        sessions.heartbeat.statements += beat.STATEMENTS
        self.taken_up = asyncio.Event()
        self.closing = False
        """No order is accepted any more."""
        self.list_is_proven = False
        """That the checkpointer goes by a list that is not empty."""
        self.proven_list: Voters | None = None
        """What every walsender is known to go by; None while that is not known."""
        self.promotion: asyncio.Task[None] | None = None
        """The newest promotion, finished or not."""
        self._long_task: asyncio.Task[None] | None = None
        self._tasks: asyncio.TaskGroup | None = None
        self._log = get_logger(node=self.state.value.node)

    async def run(self, stopping: asyncio.Event) -> None:
        """Take up the node, serve until *stopping* is set, and stop PostgreSQL in good order."""
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            async with self.turn:
                await take_up(self.instance, self.doing)
            await self.reporter.gatherer.gather()
            loops = (
                self.reporter.run(),
                self.reporter.deafness.run(),
                self.reporter.sync_trial.run(self.reporter.poke),
                self.reporter.upstream_port.run(self.reporter.poke),
                self.reporter.replay_lag.run(),
                self.heartbeat.run(),
                self.upkeep.run(),
                self.upkeep.keep_log(),
                self.upkeep.keep_names(),
                self.audit.run(),
                self.logins.run(),
                self._bury_the_dead(),
                self._police(),
                watch_wholeness(self.instance, self.reporter.gatherer, self.reporter.poke),
            )
            running = [tasks.create_task(loop) for loop in loops]
            self.taken_up.set()
            await stopping.wait()
            self.closing = True
            for task in (self.promotion, self._long_task):
                if task is not None:
                    task.cancel()
            async with self.turn:
                left = leaving(self.heartbeat, asyncio.get_running_loop().time())
                self.heartbeat.end()
                if self.doing.blocked is None:
                    await self.instance.stop(StopMode.FAST)
                    with contextlib.suppress(OSError):
                        # Only what is told of the outage depends on it.
                        self.state.store(replace(self.state.value, left=left))
            # That PostgreSQL is down is evidence, and saves the manager a wait for silence.
            self.reporter.poke()
            await asyncio.sleep(LAST_WORD_S)
            for task in running:
                task.cancel()

    async def is_primary(self, *, by_files: bool = True) -> bool:
        """Return whether PostgreSQL is a primary, or on the way to it, or nobody can say that it is not.

        *by_files*: whether its files may say so where no session does.
        """
        return self.doing.promoting or await self.instance.role(by_files=by_files) is Role.PRIMARY

    def is_mute_standby(self) -> bool:
        """Return whether PostgreSQL has answered nothing for long since its start, and by its files has not ended recovery.

        It may end it the next moment: only after a stop do the files prove anything.
        """
        state, promoting = self.state.value, self.doing.promoting
        mute_ms = self.reporter.gatherer.mute_ms()
        # A promotion below the promise is history: a former writer that was fenced since is a standby like any other.
        ordered = promoting or (state.promotion is not None and state.promotion.epoch >= state.promised)
        return mute_ms >= MUTE_MS and not ordered and self.instance.layout.standby_signal.exists()

    def begin_work(self, work: Work, doing: Coroutine[None, None, None]) -> None:
        """Begin long work; its outcome is in the observations."""
        assert self._tasks is not None
        self.doing.work = work
        self.doing.progress_percent = None
        self.doing.problem = None
        self._long_task = self._tasks.create_task(self._work(work, doing))
        self.reporter.poke()

    def begin_promotion(self, order: PromoteOrder) -> None:
        """Begin to promote; `promotion` ends with a beating writer or with PostgreSQL stopped."""
        assert self._tasks is not None
        self.promotion = self._tasks.create_task(self._promote(order))

    async def _work(self, work: Work, doing: Coroutine[None, None, None]) -> None:
        try:
            await doing
            self.copying.forget()
            self.instance.crashes.forget()
            self._log.info("long work done", work=work)
        except FAILURES as error:
            self._log.warning("long work failed", work=work, error=str(error))
            self.copying.failed(asyncio.get_running_loop().time(), str(error))
            self.doing.problem = f"{work} failed: {error}"
        finally:
            self.doing.work = None
        self.reporter.poke()

    async def _promote(self, order: PromoteOrder) -> None:
        async with self.turn:
            state = self.state.value
            if state.promised != order.epoch or (state.promotion is not None and state.promotion.epoch >= order.epoch):
                return
            self.doing.promoting = True
            self.doing.problem = None
            try:
                with contextlib.suppress(SessionError, ValueError, TimeoutError):
                    # Missing slots are made later; the promotion does not wait for them.
                    async with asyncio.timeout(SLOTS_TIMEOUT_S):
                        await ensure_slots(self.instance.sessions.control, self.upkeep.slots.members or ())
                # From here on this data counts as promoted in this epoch, whatever becomes of it.
                promotion = promise.Promotion(order.epoch, order.timeline)
                state = self.state.value
                self.state.store(replace(state, promotion=promotion, in_force=order.voters, following=None))
                # The list before, a standby's, was not empty: the checkpointer only goes from one to the other (S1).
                self.list_is_proven = bool(synchronous_standby_names(order.voters, state.node))
                # Walsenders that have not read the new list go by a standby's, under which nobody is released.
                self.proven_list = order.voters
                self.instance.standby_slots = None
                await promote(self.instance, order.timeline, lambda: self.state.value.promised == order.epoch)
                # Locks that kept us out ended with recovery.
                self.instance.sessions.routes.hangs.forget()
                self.heartbeat.begin(order.epoch)
                self._log.info("promoted", epoch=order.epoch, timeline=order.timeline)
            except (PromotionError, PostmasterError, OSError) as error:
                self._log.warning("promotion failed", epoch=order.epoch, error=str(error))
                self.doing.problem = f"the promotion failed: {error}"
                with contextlib.suppress(PostmasterError):
                    await self.instance.stop(StopMode.IMMEDIATE)
            finally:
                self.doing.promoting = False
        self.reporter.poke()

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
                self.doing.problem = f"PostgreSQL ended while it was starting: {complaint}"
            elif self.instance.crashes.failures > 1:
                self.doing.problem = f"PostgreSQL ended {self.instance.crashes.failures} times in a row: {complaint}"
            async with self.turn:
                try:
                    if postmaster.exited.is_set():
                        await postmaster.bury()
                except PostmasterError as error:
                    self.doing.problem = str(error)
                    postmaster.exited.clear()

    def _complaint(self) -> str:
        """Return why PostgreSQL has ended, as far as can be told."""
        return (
            lack_of_room(self.instance)
            or last_complaint(self.instance.layout.log)
            or f"exit status {self.instance.postmaster.exit_status}"
        )

    async def _police(self) -> None:
        """Let the writer beat once its timeline is seen to be the claimed one; stop a primary that nobody ordered (S18)."""
        while True:
            await self.reporter.gatherer.next_round()
            facts = self.reporter.gatherer.facts
            if facts.role is not Role.PRIMARY or self.turn.locked() or self.doing.blocked is not None:
                continue
            promotion = self.state.value.promotion
            if promotion is not None and promise.may_remain_primary(self.state.value, facts.timeline):
                self.heartbeat.begin(promotion.epoch)
                continue
            async with self.turn:
                if self.reporter.gatherer.facts.role is not Role.PRIMARY or not self.instance.running:
                    continue
                self._log.error("this node was promoted by nobody's order and is stopped", timeline=facts.timeline)
                self.heartbeat.end()
                try:
                    # What cannot be written down is not started again either: the next round finds the same primary. Whether
                    # its WAL counts is found out at the start: a writer of ours that promised a newer epoch a moment ago is
                    # stopped here too.
                    self.state.store(replace(self.state.value, following=None))
                    await fence.cut(self.instance, promoting=True, stop_mode=StopMode.IMMEDIATE)
                except FAILURES as error:
                    self.doing.problem = str(error)
                    with contextlib.suppress(PostmasterError):
                        await self.instance.stop(StopMode.IMMEDIATE)
            self.reporter.poke()
