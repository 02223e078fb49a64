"""What a node does with each order.

Always in this sequence: accept (the rules are in `promise`), make durable, act.  A promise is made durable before it waits
for its turn, so that whatever is under way for an older epoch (a promotion that waits for replay) sees it and gives up.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from msgspec.structs import replace

from daemonkit.logs import get_logger
from noded import fence, promise
from noded.copies import FAILURES
from noded.fence import Cut, Unknown
from noded.node import Node
from noded.postmaster import PostmasterError
from noded.promise import Circumstances, State, Work
from noded.sessions import SessionError
from noded.synchronous import SynchronousError, prove_in_force
from pgtopology.epoch import NO_EPOCH, Epoch
from pgtopology.node import NodeName, Position, Role
from pgtopology.orders import (
    Acknowledged,
    CheckpointOrder,
    CloneOrder,
    ConfigureOrder,
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
from pgtopology.parameters import SettingRefused, check
from pgtopology.quorum import Voters, synchronous_standby_names

ANSWER_RESERVE_S = 0.05
"""An answer leaves this long before the deadline its order carries."""

_T = TypeVar("_T")


class OrderRefused(Exception):  # noqa: N818 - it says what was done, and is part of the interface
    """An order was not carried out; PostgreSQL is as the durable state says."""

    def __init__(self, reason: Refusal, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


class Orders:
    """Carries out orders on one node."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self._instance = node.instance
        self._state = node.state
        self._doing = node.doing
        self._told: tuple[Epoch, bool] = (NO_EPOCH, False)
        self._read: tuple[Epoch, int, Position] | None = None
        """The position that was read from the files in an epoch, and the postmaster that runs since."""
        self._log = get_logger(node=node.state.value.node)

    async def promise(self, order: PromiseOrder) -> PromiseAnswer:
        """Fence this node below the order's epoch and say how far its WAL reaches (F3)."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _patience_s(order)
        seen = self._state.value.seen
        self._accept(order, primary=False, change=lambda state: promise.promise(state, order.epoch))
        async with self.node.turn:
            self._check_not_overtaken(order)
            fenced, unknown = await self._guard(self._fence(order))
        position = fenced.position
        if position is None and not unknown:
            found = await fence.read_position(self._instance, timeout_s=max(0.0, deadline - loop.time()))
            self._check_not_overtaken(order)
            if isinstance(found, Unknown) and found.mute:
                found = await self._position_by_files(order)
            if self._state.value.following is not None:
                unknown = "it was told to follow meanwhile"
            elif isinstance(found, Position):
                position = found
                # PostgreSQL runs and its WAL is read to the end: an earlier failure to start is over.
                self._doing.problem = None
            else:
                unknown = found.reason
        state = self._state.value
        if self._told != (order.epoch, position is not None):
            self._told = (order.epoch, position is not None)
            self._log.info("epoch promised", epoch=order.epoch, position=position, unknown_because=unknown or None)
        return PromiseAnswer(
            node=state.node,
            promised=state.promised,
            incarnation=state.incarnation,
            system_identifier=state.system_identifier,
            whole=state.whole,
            seen=seen,
            position=position,
            unknown_because=unknown,
            was_primary=fenced.was_primary,
        )

    async def _position_by_files(self, order: PromiseOrder) -> Position | Unknown:
        """Return where WAL ends although no session answers; once an epoch, because PostgreSQL is stopped for it."""
        read = self._read
        if read is not None and read[:2] == (order.epoch, self._instance.postmaster.pid):
            return read[2]
        async with self.node.turn:
            self._check_not_overtaken(order)
            if self._state.value.following is not None or self._doing.promoting:
                return Unknown("it was told something else meanwhile")
            if not self._instance.running:
                return Unknown("PostgreSQL ended")
            self._log.warning("no session is answered; the position is read from the files", epoch=order.epoch)
            found = await self._guard(fence.read_position_by_files(self._instance))
            if isinstance(found, Position) and (pid := self._instance.postmaster.pid) is not None:
                self._read = (order.epoch, pid, found)
        return found

    async def follow(self, order: FollowOrder) -> Acknowledged:
        """Stream from the order's upstream."""
        self._accept(order, primary=await self.node.is_primary())
        async with self.node.turn:
            self._check_not_overtaken(order)
            self._check_not_primary(await self.node.is_primary())
            self._state.store(promise.follow(self._state.value, order.upstream, order.epoch))
            await self._guard(self._start_or_reload())
        self._log.info("following", upstream=order.upstream.name, epoch=order.epoch)
        return self._done()

    async def promote(self, order: PromoteOrder) -> Acknowledged:
        """Become the primary of the order's epoch."""
        self._accept(order, primary=False)
        node, state = self.node, self._state.value
        under_way = node.promotion is not None and not node.promotion.done()
        if not under_way and (state.promotion is None or state.promotion.epoch != order.epoch):
            if not self._instance.note_readiness():
                raise OrderRefused(Refusal.FAILED, "PostgreSQL does not accept connections yet")
            node.begin_promotion(order)
        if node.promotion is not None:
            await asyncio.wait([node.promotion], timeout=_patience_s(order))
            if not node.promotion.done():
                return self._done(done=False, detail="WAL is being replayed")
        promotion = self._state.value.promotion
        if promotion == promise.Promotion(order.epoch, order.timeline) and await node.is_primary():
            return self._done()
        raise OrderRefused(Refusal.FAILED, self._doing.problem or "the promotion did not happen")

    async def settings(self, order: SettingsOrder) -> SettingsAnswer:
        """Put a list of synchronous standbys in force and prove it."""
        node = self.node
        self._accept(order, primary=await node.is_primary())
        name, wanted = self._state.value.node, order.in_force
        async with node.turn:
            self._check_not_overtaken(order)
            self._check_is_ours()
            was_empty = not node.list_is_proven
            bounce = _needs_bounce(node.proven_list, wanted, name)
            self._state.store(replace(self._state.value, in_force=wanted))
            node.list_is_proven = False
            node.proven_list = node.proven_list if node.proven_list == wanted else None
            await self._guard(self._start_or_reload(writer=True))

        def is_read() -> None:
            if self._state.value.in_force == wanted:
                node.list_is_proven = bool(synchronous_standby_names(wanted, name))

        try:
            lsn = await prove_in_force(
                self._instance,
                wanted,
                was_empty=was_empty,
                bounce=bounce,
                timeout_s=_patience_s(order),
                on_read=is_read,
            )
        except SynchronousError as error:
            raise OrderRefused(Refusal.FAILED, str(error)) from error
        self._check_not_overtaken(order)
        if self._state.value.in_force == wanted:
            node.proven_list = wanted
        node.reporter.poke()
        return SettingsAnswer(node=name, in_force=wanted, barrier_lsn=lsn)

    async def configure(self, order: ConfigureOrder) -> Acknowledged:
        """Go by the operator's settings from now on."""
        try:
            check(order.desired)
        except SettingRefused as error:
            raise OrderRefused(Refusal.FAILED, str(error)) from error
        self._accept(order, primary=False)
        async with self.node.turn:
            self._check_not_overtaken(order)
            self._state.store(replace(self._state.value, desired=order.desired))
            if self._instance.running:
                await self._guard(self._reload_settings())
        self._log.info("settings taken over", version=order.desired.version)
        self.node.reporter.poke()
        return self._done()

    async def checkpoint(self, order: CheckpointOrder) -> Acknowledged:
        """Write dirty pages out now, beside everything else."""
        self._accept(order, primary=False)
        try:
            await self._instance.sessions.checkpoint.rows("CHECKPOINT", timeout_s=_patience_s(order))
        except SessionError as error:
            raise OrderRefused(Refusal.FAILED, f"the checkpoint was not completed: {error}") from error
        return self._done()

    async def start(self, order: StartOrder, *, restart: bool = False) -> Acknowledged:
        """Start PostgreSQL as a standby; with *restart* stop it first."""
        self._accept(order, primary=False)
        async with self.node.turn:
            self._check_not_overtaken(order)
            self._state.store(replace(self._state.value, wanted=True))
            self._instance.crashes.forget()
            if restart:
                self.node.heartbeat.end()
                await self._guard(self._instance.stop(StopMode.FAST))
            if not self._instance.running:
                await self._guard(self._start_or_reload())
        return self._done()

    async def stop(self, order: StopOrder) -> Acknowledged:
        """Stop PostgreSQL; no process of its data directory is left."""
        self._accept(order, primary=False)
        async with self.node.turn:
            self._check_not_overtaken(order)
            self._state.store(replace(self._state.value, wanted=False))
            self.node.heartbeat.end()
            await self._guard(self._instance.stop(order.mode))
        return self._done()

    async def init(self, order: InitOrder) -> Acknowledged:
        """Begin to make a new cluster's data."""
        self._accept(order, primary=False)
        if self._doing.work is None:
            if self._instance.layout.pgdata.exists():
                raise OrderRefused(Refusal.HAS_DATA, f"{self._instance.layout.pgdata} exists")
            self.node.begin_work(Work.INIT, self.node.copies.initialise())
        return self._done(done=False)

    async def clone(self, order: CloneOrder) -> Acknowledged:
        """Begin to copy another node's data."""
        await self._begin(order, Work.CLONE)
        return self._done(done=False)

    async def rewind(self, order: RewindOrder) -> Acknowledged:
        """Begin to rewind the data to another node's history."""
        await self._begin(order, Work.REWIND)
        return self._done(done=False)

    async def _begin(self, order: CloneOrder | RewindOrder, work: Work) -> None:
        """Mark the data as unusable, durably, and begin."""
        by_operator = isinstance(order, CloneOrder) and order.by_operator
        if by_operator and self._doing.blocked is not None:
            self._lift_quarantine(order)
        mute = isinstance(order, CloneOrder) and self.node.is_mute_standby()
        self._accept(order, primary=not mute and await self.node.is_primary(by_files=False))
        if self._doing.work is not None or promise.is_done(self._state.value, order):
            return
        copying = self.node.copying
        left_s = 0.0 if by_operator else copying.left_s(asyncio.get_running_loop().time())
        if left_s:
            raise OrderRefused(Refusal.FAILED, f"the last attempt failed ({copying.reason}); tried again in {left_s:.1f} s")
        async with self.node.turn:
            self._check_not_overtaken(order)
            if mute and self.node.is_mute_standby():
                # Nobody answers for what it is: once no process is left, its files do.
                await self._guard(self._instance.stop(StopMode.IMMEDIATE))
                self._check_not_overtaken(order)
                self._check_not_primary(not self._instance.layout.standby_signal.exists())
            self._check_not_primary(await self.node.is_primary(by_files=False))
            if self._doing.work is None and not promise.is_done(self._state.value, order):
                marked = promise.begin(self._state.value, work)
                self._state.store(promise.follow(marked, order.source, order.epoch))
                copies = self.node.copies
                doing = copies.clone(order.source) if work is Work.CLONE else copies.rewind(order.source, order.revision)
                self.node.begin_work(work, doing)

    def _lift_quarantine(self, order: Order) -> None:
        """Let *order*, an operator's, replace what is here; the promise is at least its epoch, for the former may be lost."""
        state = self._state.value
        refused = promise.refusal(state, order, Circumstances(primary=False))
        if refused is not None:
            raise OrderRefused(refused.reason, refused.message)
        self._log.warning("the quarantine is lifted by an operator", quarantined_because=self._doing.blocked)
        self._state.renew()
        self._state.store(replace(state, promised=Epoch(max(state.promised, order.epoch))))
        self._doing.blocked = None

    async def _fence(self, order: PromiseOrder) -> tuple[Cut, str]:
        """Keep the promise. Return what came of it, and why no position can be told if that is known already."""
        doing, instance, state = self._doing, self._instance, self._state.value
        if doing.blocked is not None:
            instance.forget_password()
            await instance.stop(StopMode.IMMEDIATE)
            return Cut(), doing.blocked
        if doing.work is not None:
            # The data is in nobody's service; whatever the work ends with is started as the promise says.
            instance.forget_password()
            return Cut(), f"{doing.work} is under way"
        if not instance.has_data():
            return Cut(), "there is no data"
        self.node.heartbeat.end()
        if state.work is not None:
            await instance.stop(StopMode.IMMEDIATE)
            return Cut(), f"an unfinished {state.work} left the data unusable"
        if not instance.running and (why_not := instance.why_not_yet()) is not None:
            await instance.stop(StopMode.IMMEDIATE)
            return Cut(), why_not
        patience_s = _patience_s(order)
        return await fence.cut(instance, promoting=doing.promoting, stop_mode=order.stop_mode, fast_s=patience_s), ""

    def _accept(self, order: Order, *, primary: bool, change: Callable[[State], State] = lambda state: state) -> None:
        """Raise OrderRefused if *order* may not be carried out; else make durable that it was seen, and *change*."""
        if self.node.closing:
            raise OrderRefused(Refusal.FAILED, "noded is stopping")
        if self._doing.blocked is not None and (not isinstance(order, PromiseOrder) or self._state.unreadable is not None):
            raise OrderRefused(Refusal.FAILED, self._doing.blocked)
        standby = self._instance.running and self.node.reporter.gatherer.facts.role is Role.STANDBY
        now = Circumstances(primary=primary, standby=standby, busy=self._doing.work)
        refused = promise.refusal(self._state.value, order, now)
        if refused is not None:
            raise OrderRefused(refused.reason, refused.message)
        self._state.store(change(promise.see(self._state.value, order)))
        self.node.upkeep.learn_slots(order.slots)

    def _check_not_overtaken(self, order: Order) -> None:
        """Raise OrderRefused if a newer order came while this one waited, or noded is stopping."""
        state = self._state.value
        if self.node.closing:
            raise OrderRefused(Refusal.FAILED, "noded is stopping")
        if state.promised > order.epoch or (state.seen.epoch, state.seen.revision) > (order.epoch, order.revision):
            raise OrderRefused(Refusal.STALE, f"epoch {state.seen.epoch} revision {state.seen.revision} came meanwhile")

    def _check_is_ours(self) -> None:
        """Raise OrderRefused if PostgreSQL was promoted by nobody's order: a list in force would release its commits (S3)."""
        facts = self.node.reporter.gatherer.facts
        if facts.role is Role.PRIMARY and not promise.may_remain_primary(self._state.value, facts.timeline):
            raise OrderRefused(Refusal.FAILED, f"PostgreSQL is on timeline {facts.timeline}, which nobody claimed for it")

    def _check_not_primary(self, primary: bool) -> None:
        if primary:
            raise OrderRefused(Refusal.RUNNING_PRIMARY, "this node has become a primary meanwhile")

    async def _start_or_reload(self, *, writer: bool = False) -> None:
        """Bring PostgreSQL into line with the durable state."""
        state = self._state.value
        if state.work is not None:
            raise PostmasterError(f"an unfinished {state.work} left the data unusable")
        if self._instance.running:
            self._instance.configure(promise.writer_configuration(state) if writer else promise.standby_configuration(state))
            self._instance.postmaster.reload()
        else:
            await self._instance.stop(StopMode.IMMEDIATE)
            await self._instance.start()
        self._doing.problem = None

    async def _reload_settings(self) -> None:
        self._instance.write_settings()
        self._instance.postmaster.reload()

    async def _guard(self, action: Awaitable[_T]) -> _T:
        """Return what *action* does, its failures as a refusal."""
        try:
            return await action
        except FAILURES as error:
            self._doing.problem = str(error)
            raise OrderRefused(Refusal.FAILED, str(error)) from error
        finally:
            self.node.reporter.poke()

    def _done(self, *, done: bool = True, detail: str = "") -> Acknowledged:
        return Acknowledged(node=self._state.value.node, done=done, detail=detail)


def _needs_bounce(proven: Voters | None, wanted: Voters, writer: NodeName) -> bool:
    """Return whether walsenders must begin anew: one of them may still release commits that fewer copies have (S20).

    One that knows of no list, or only of names not in the new one, releases nobody or shows it by its priority.
    """
    needed = wanted.others_needed(writer)
    return needed > 1 and (proven is None or proven.others_needed(writer) < needed)


def _patience_s(order: Order) -> float:
    """Return how long the answer to *order* may take."""
    return max(0.0, order.deadline_ms / 1000 - ANSWER_RESERVE_S)
