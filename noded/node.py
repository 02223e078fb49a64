"""One node: its durable state, its PostgreSQL, and the orders it is given.

Orders that change PostgreSQL take turns.  A promise is made durable before it waits for its turn, so that whatever is under
way for an older epoch (a promotion that waits for replay) sees it and gives up.  Long work runs as a task of its own; its
outcome is in the observations.  The rules of acceptance are in `promise`; here they are only applied, always in this order:
accept, make durable, act.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar

from msgspec.structs import replace

from daemonkit.logs import get_logger
from noded import fence, promise
from noded.copies import FAILURES, Copies
from noded.heartbeat import Heartbeat
from noded.instance import Instance
from noded.postmaster import PostmasterError
from noded.promise import Circumstances, State, Work
from noded.promotion import PromotionError, promote
from noded.reporter import Doing, Reporter
from noded.sessions import SessionError
from noded.slots import ensure_slots
from noded.synchronous import SynchronousError, prove_in_force
from noded.takeup import take_up
from noded.upkeep import Upkeep
from noded.wholeness import watch_wholeness
from pgtopology.node import Position, Role
from pgtopology.orders import (
    Acknowledged,
    CloneOrder,
    FollowOrder,
    InitOrder,
    Order,
    PromiseAnswer,
    PromiseOrder,
    PromoteOrder,
    Refusal,
    RewindOrder,
    SettingsAnswer,
    SettingsOrder,
    StartOrder,
    StopMode,
    StopOrder,
)
from pgtopology.quorum import synchronous_standby_names

ANSWER_RESERVE_S = 0.05
"""An answer leaves this long before the deadline its order carries."""
SLOTS_TIMEOUT_S = 1.0
POLICE_S = 0.2

_T = TypeVar("_T")


class OrderRefused(Exception):  # noqa: N818 - it says what was done, and is part of the interface
    """An order was not carried out; PostgreSQL is as the durable state says."""

    def __init__(self, reason: Refusal, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


class Node:
    """Carries out orders. `run` must be running."""

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
        self.reporter = reporter
        self._state = instance.state
        self._heartbeat = heartbeat
        self._doing = doing
        self._turn = asyncio.Lock()
        self._copies = Copies(instance, doing, self._turn, passwords)
        self._upkeep = Upkeep(instance, reporter.gatherer, doing, self._turn)
        self._tasks: asyncio.TaskGroup | None = None
        self._promotion: asyncio.Task[None] | None = None
        self.taken_up = asyncio.Event()
        """Set when orders can be given."""
        self._long_task: asyncio.Task[None] | None = None
        self._list_is_proven = False
        """That the checkpointer goes by a list that is not empty."""
        self._log = get_logger(node=self._state.value.node)

    async def run(self, stopping: asyncio.Event) -> None:
        """Take up the node, serve until *stopping* is set, and stop PostgreSQL in good order."""
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            async with self._turn:
                epoch = await take_up(self.instance, self._doing)
            if epoch is not None:
                self._heartbeat.begin(epoch)
            await self.reporter.gatherer.gather()
            loops = (
                self.reporter.run(),
                self.reporter.deafness.run(),
                self._heartbeat.run(),
                self._upkeep.run(),
                self._bury_the_dead(),
                self._police(),
                watch_wholeness(self.instance, self.reporter.gatherer, self.reporter.poke),
            )
            running = [tasks.create_task(loop) for loop in loops]
            self.taken_up.set()
            await stopping.wait()
            for task in (self._promotion, self._long_task):
                if task is not None:
                    task.cancel()
            async with self._turn:
                self._heartbeat.end()
                if self._doing.blocked is None:
                    await self.instance.stop(StopMode.FAST)
            for task in running:
                task.cancel()

    # Orders

    async def promise(self, order: PromiseOrder) -> PromiseAnswer:
        """Fence this node below the order's epoch and say how far its WAL reaches (DESIGN 4.3)."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + order.deadline_ms / 1000 - ANSWER_RESERVE_S
        seen = self._state.value.seen
        self._accept(order, primary=False, change=lambda state: promise.promise(state, order.epoch))
        was_primary = False
        unknown = self._doing.blocked or ""
        async with self._turn:
            self._check_not_overtaken(order)
            if self._doing.work is not None or not self.instance.has_data() or unknown:
                self.instance.forget_password()
                unknown = unknown or (f"{self._doing.work} is under way" if self._doing.work else "there is no data")
            elif self._state.value.work is not None:
                await self.instance.stop(StopMode.IMMEDIATE)
                unknown = f"an unfinished {self._state.value.work} left the data unusable"
            else:
                self._heartbeat.end()
                was_primary = await self._guard(
                    fence.cut(self.instance, promoting=self._doing.promoting, stop_mode=order.stop_mode)
                )
        position: Position | None = None
        if not unknown:
            found = await fence.read_position(self.instance, timeout_s=max(0.0, deadline - loop.time()))
            self._check_not_overtaken(order)
            if isinstance(found, Position):
                position = found
            else:
                unknown = found.reason
            if self._state.value.following is not None:
                position, unknown = None, "it was told to follow meanwhile"
        self.reporter.poke()
        self._log.info("epoch promised", epoch=order.epoch, position=position, unknown_because=unknown or None)
        state = self._state.value
        return PromiseAnswer(
            node=state.node,
            promised=state.promised,
            incarnation=state.incarnation,
            system_identifier=state.system_identifier,
            whole=state.whole,
            seen=seen,
            position=position,
            unknown_because=unknown,
            was_primary=was_primary,
        )

    async def follow(self, order: FollowOrder) -> Acknowledged:
        """Stream from the order's upstream."""
        self._accept(order, primary=await self._is_primary())
        async with self._turn:
            self._check_not_overtaken(order)
            self._state.store(promise.follow(self._state.value, order.upstream, order.epoch))
            await self._guard(self._start_or_reload())
        self._log.info("following", upstream=order.upstream.name, epoch=order.epoch)
        return self._done()

    async def promote(self, order: PromoteOrder) -> Acknowledged:
        """Become the primary of the order's epoch."""
        self._accept(order, primary=False)
        state = self._state.value
        under_way = self._promotion is not None and not self._promotion.done()
        if not under_way and (state.promotion is None or state.promotion.epoch != order.epoch):
            if not self.instance.note_readiness():
                raise OrderRefused(Refusal.FAILED, "PostgreSQL does not accept connections yet")
            assert self._tasks is not None
            self._promotion = self._tasks.create_task(self._promote(order))
        if self._promotion is not None:
            await asyncio.wait([self._promotion], timeout=order.deadline_ms / 1000 - ANSWER_RESERVE_S)
            if not self._promotion.done():
                return self._done(done=False, detail="WAL is being replayed")
        promotion = self._state.value.promotion
        if promotion == promise.Promotion(order.epoch, order.timeline) and await self._is_primary():
            return self._done()
        raise OrderRefused(Refusal.FAILED, self._doing.problem or "the promotion did not happen")

    async def settings(self, order: SettingsOrder) -> SettingsAnswer:
        """Put a list of synchronous standbys in force and prove it."""
        self._accept(order, primary=await self._is_primary())
        deadline = order.deadline_ms / 1000 - ANSWER_RESERVE_S
        async with self._turn:
            self._check_not_overtaken(order)
            before, node = self._state.value.in_force, self._state.value.node
            was_empty = not self._list_is_proven
            bounce = before is not None and 0 < before.others_needed(node) < order.in_force.others_needed(node)
            self._state.store(replace(self._state.value, in_force=order.in_force))
            self._list_is_proven = False
            await self._guard(self._start_or_reload(writer=True))
        try:
            lsn = await prove_in_force(self.instance, order.in_force, was_empty=was_empty, bounce=bounce, timeout_s=deadline)
        except SynchronousError as error:
            raise OrderRefused(Refusal.FAILED, str(error)) from error
        if self._state.value.in_force == order.in_force:
            self._list_is_proven = bool(synchronous_standby_names(order.in_force, node))
        self.reporter.poke()
        return SettingsAnswer(node=node, in_force=order.in_force, barrier_lsn=lsn)

    async def start(self, order: StartOrder, *, restart: bool = False) -> Acknowledged:
        """Start PostgreSQL as a standby; with *restart* stop it first."""
        self._accept(order, primary=False)
        async with self._turn:
            self._check_not_overtaken(order)
            self._state.store(replace(self._state.value, wanted=True))
            if restart:
                self._heartbeat.end()
                await self._guard(self.instance.stop(StopMode.FAST))
            if not self.instance.running:
                await self._guard(self._start_or_reload())
        return self._done()

    async def stop(self, order: StopOrder) -> Acknowledged:
        """Stop PostgreSQL; no process of its data directory is left."""
        self._accept(order, primary=False)
        async with self._turn:
            self._check_not_overtaken(order)
            self._state.store(replace(self._state.value, wanted=False))
            self._heartbeat.end()
            await self._guard(self.instance.stop(order.mode))
        return self._done()

    async def init(self, order: InitOrder) -> Acknowledged:
        """Begin to make a new cluster's data."""
        self._accept(order, primary=False)
        if self._doing.work is None:
            if self.instance.layout.pgdata.exists():
                raise OrderRefused(Refusal.HAS_DATA, f"{self.instance.layout.pgdata} exists")
            self._begin(Work.INIT, self._copies.initialise())
        return self._done(done=False)

    async def clone(self, order: CloneOrder) -> Acknowledged:
        """Begin to copy another node's data."""
        self._accept(order, primary=await self._is_primary())
        if self._doing.work is None:
            marked = promise.begin(self._state.value, Work.CLONE)
            self._state.store(promise.follow(marked, order.source, order.epoch))
            self._begin(Work.CLONE, self._copies.clone(order.source))
        return self._done(done=False)

    async def rewind(self, order: RewindOrder) -> Acknowledged:
        """Begin to rewind the data to another node's history."""
        self._accept(order, primary=await self._is_primary())
        if self._doing.work is None:
            marked = promise.begin(self._state.value, Work.REWIND)
            self._state.store(promise.follow(marked, order.source, order.epoch))
            self._begin(Work.REWIND, self._copies.rewind(order.source))
        return self._done(done=False)

    # Parts of orders

    def _accept(self, order: Order, *, primary: bool, change: Callable[[State], State] = lambda state: state) -> None:
        """Raise OrderRefused if *order* may not be carried out; else make durable that it was seen, and *change*."""
        refused = promise.refusal(self._state.value, order, Circumstances(primary=primary, busy=self._doing.work))
        if refused is not None:
            raise OrderRefused(refused.reason, refused.message)
        if self._doing.blocked is not None and not isinstance(order, PromiseOrder):
            raise OrderRefused(Refusal.FAILED, self._doing.blocked)
        self._state.store(change(promise.see(self._state.value, order)))
        self._upkeep.learn_slots(order.slots)

    def _check_not_overtaken(self, order: Order) -> None:
        """Raise OrderRefused if a newer order came while this one waited."""
        state = self._state.value
        if state.promised > order.epoch or (state.seen.epoch, state.seen.revision) > (order.epoch, order.revision):
            raise OrderRefused(Refusal.STALE, f"epoch {state.seen.epoch} revision {state.seen.revision} came meanwhile")

    async def _is_primary(self) -> bool:
        return self._doing.promoting or await self.instance.role() is Role.PRIMARY

    async def _start_or_reload(self, *, writer: bool = False) -> None:
        """Bring PostgreSQL into line with the durable state."""
        if self._state.value.work is not None:
            raise PostmasterError(f"an unfinished {self._state.value.work} left the data unusable")
        self._doing.problem = None
        if self.instance.running:
            state = self._state.value
            self.instance.configure(promise.writer_configuration(state) if writer else promise.standby_configuration(state))
            self.instance.postmaster.reload()
        else:
            await self.instance.stop(StopMode.IMMEDIATE)
            self.instance.start()

    async def _promote(self, order: PromoteOrder) -> None:
        """Promote, and end with a beating writer or with PostgreSQL stopped. Runs as a task of its own."""
        async with self._turn:
            state = self._state.value
            if state.promised != order.epoch or (state.promotion is not None and state.promotion.epoch >= order.epoch):
                return
            self._doing.promoting = True
            self._doing.problem = None
            try:
                with contextlib.suppress(SessionError, TimeoutError):
                    # Missing slots are made later; the promotion does not wait for them.
                    async with asyncio.timeout(SLOTS_TIMEOUT_S):
                        await ensure_slots(self.instance.sessions.control, self._upkeep.slots or ())
                promotion = promise.Promotion(order.epoch, order.timeline)
                self._state.store(replace(state, promotion=promotion, in_force=order.voters, following=None))
                self._list_is_proven = bool(synchronous_standby_names(order.voters, state.node))
                await promote(self.instance, order.timeline, lambda: self._state.value.promised == order.epoch)
                self._heartbeat.begin(order.epoch)
                self._log.info("promoted", epoch=order.epoch, timeline=order.timeline)
            except (PromotionError, PostmasterError, OSError) as error:
                self._log.warning("promotion failed", epoch=order.epoch, error=str(error))
                self._doing.problem = f"the promotion failed: {error}"
                with contextlib.suppress(PostmasterError):
                    await self.instance.stop(StopMode.IMMEDIATE)
            finally:
                self._doing.promoting = False
        self.reporter.poke()

    async def _bury_the_dead(self) -> None:
        """After each exit that nobody ordered, end what is left of PostgreSQL, at once."""
        exited = self.instance.postmaster.exited
        while True:
            await exited.wait()
            self._log.warning("postgresql ended although nobody ordered it", status=self.instance.postmaster.exit_status)
            self._heartbeat.end()
            self.instance.sessions.drop()
            async with self._turn:
                try:
                    if exited.is_set():
                        await self.instance.postmaster.bury()
                except PostmasterError as error:
                    self._doing.problem = str(error)
                    exited.clear()

    async def _police(self) -> None:
        """Stop a primary that nobody ordered (S18); let one that was promoted behind our back by our own order beat."""
        while True:
            await asyncio.sleep(POLICE_S)
            state, facts = self._state.value, self.reporter.gatherer.facts
            if facts.role is not Role.PRIMARY or self._turn.locked() or self._doing.blocked is not None:
                continue
            promotion = state.promotion
            if promotion is not None and promise.may_remain_primary(state) and facts.timeline == promotion.timeline:
                self._heartbeat.begin(promotion.epoch)
                continue
            async with self._turn:
                if await self.instance.role() is not Role.PRIMARY or promise.may_remain_primary(self._state.value):
                    continue
                self._log.error("this node was promoted by somebody else and is stopped", timeline=facts.timeline)
                self._state.store(replace(self._state.value, following=None, whole=False))
                await self._guard(fence.cut(self.instance, promoting=True, stop_mode=StopMode.IMMEDIATE))

    def _begin(self, work: Work, doing: Awaitable[None]) -> None:
        assert self._tasks is not None
        self._doing.work = work
        self._doing.progress_percent = None
        self._doing.problem = None
        self._long_task = self._tasks.create_task(self._work(work, doing))
        self.reporter.poke()

    async def _work(self, work: Work, doing: Awaitable[None]) -> None:
        try:
            await doing
            self._log.info("long work done", work=work)
        except FAILURES as error:
            self._log.warning("long work failed", work=work, error=str(error))
            self._doing.problem = f"{work} failed: {error}"
        finally:
            self._doing.work = None
        self.reporter.poke()

    async def _guard(self, action: Awaitable[_T]) -> _T:
        """Return what *action* does, its failures as a refusal."""
        try:
            return await action
        except FAILURES as error:
            self._doing.problem = str(error)
            raise OrderRefused(Refusal.FAILED, str(error)) from error
        finally:
            self.reporter.poke()

    def _done(self, *, done: bool = True, detail: str = "") -> Acknowledged:
        return Acknowledged(node=self._state.value.node, done=done, detail=detail)
