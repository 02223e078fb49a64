"""What a node does with each order.

Always in this sequence: accept (the rules are in `promise`), make durable, act.  A promise is made durable before it waits
for its turn, so that whatever is under way for an older epoch (a promotion that waits for replay) sees it and gives up.
Every order may come again after whatever step its noded died at, and goes on.
"""

from __future__ import annotations

from msgspec.structs import replace

from noded.acts.effects import (
    AwaitPromotion,
    BeginPromotion,
    Checkpoint,
    EndHeartbeat,
    Failed,
    ForgetCrashes,
    InTurn,
    Look,
    Note,
    Now,
    Poke,
    ReloadSettings,
    Steps,
    Stop,
    Store,
)
from noded.acts.fence import Cut, Fence, Unknown
from noded.acts.gate import Gate, OrderRefused, patience_s
from noded.acts.memory import Memory
from noded.acts.promotion import Promotion
from noded.acts.remaking import Remaking
from noded.acts.running import Running
from noded.acts.synchronous import Synchronous
from noded.law import promise as rules
from pgtopology.node import Position
from pgtopology.orders import (
    Acknowledged,
    CheckpointOrder,
    CloneOrder,
    ConfigureOrder,
    FollowOrder,
    InitOrder,
    PromiseAnswer,
    PromiseOrder,
    PromoteOrder,
    Refusal,
    RewindOrder,
    StartOrder,
    StopMode,
    StopOrder,
    SynchronousAnswer,
    SynchronousOrder,
)
from pgtopology.parameters import SettingRefused, check


class Orders:
    """One act for each order. Each raises OrderRefused, and OSError where what it needs cannot be made durable."""

    def __init__(
        self,
        memory: Memory,
        gate: Gate,
        running: Running,
        fence: Fence,
        promotion: Promotion,
        synchronous: Synchronous,
        remaking: Remaking,
    ) -> None:
        self._memory = memory
        self._gate = gate
        self._running = running
        self._fence = fence
        self._promotion = promotion
        self._synchronous = synchronous
        self._remaking = remaking

    def promise(self, order: PromiseOrder) -> Steps[PromiseAnswer]:
        """Fence this node below the order's epoch and say how far its WAL reaches (F3)."""
        memory, patience = self._memory, patience_s(order)
        deadline = (yield from Now()) + patience
        seen = memory.state.seen
        yield from self._gate.accept(order, primary=False, change=lambda state: rules.promise(state, order.epoch))
        fenced = yield from InTurn(self._kept(order, patience))
        position, unknown = fenced.position, fenced.unknown
        if position is None and not unknown:
            found = yield from self._fence.read_position(max(0.0, deadline - (yield from Now())))
            self._gate.check_not_overtaken(order)
            if isinstance(found, Unknown) and found.mute:
                found = yield from self._position_by_files(order)
            if memory.state.following is not None:
                unknown = "it was told to follow meanwhile"
            elif isinstance(found, Position):
                position = found
                # PostgreSQL runs and its WAL is read to the end: an earlier failure to start is over.
                memory.problem = None
            else:
                unknown = found.reason
        if memory.told != (order.epoch, position is not None):
            memory.told = (order.epoch, position is not None)
            facts = {"epoch": order.epoch, "position": position, "unknown_because": unknown or None}
            yield from Note("epoch promised", facts)
        state = memory.state
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

    def _kept(self, order: PromiseOrder, patience: float) -> Steps[Cut]:
        self._gate.check_not_overtaken(order)
        return (yield from self._gate.guard(self._fence.keep(order.stop_mode, patience)))

    def _position_by_files(self, order: PromiseOrder) -> Steps[Position | Unknown]:
        """Return where WAL ends although no session answers; once an epoch, because PostgreSQL is stopped for it."""
        read = self._memory.read
        if read is not None and read[0] == order.epoch:
            return read[1]
        return (yield from InTurn(self._read_files(order)))

    def _read_files(self, order: PromiseOrder) -> Steps[Position | Unknown]:
        memory = self._memory
        self._gate.check_not_overtaken(order)
        if memory.state.following is not None or memory.promoting:
            return Unknown("it was told something else meanwhile")
        if not (yield from Look()).running:
            return Unknown("PostgreSQL ended")
        yield from Note("no session is answered; the position is read from the files", {"epoch": order.epoch}, "warning")
        found = yield from self._gate.guard(self._fence.read_position_by_files())
        if isinstance(found, Position):
            memory.read = order.epoch, found
        return found

    def follow(self, order: FollowOrder) -> Steps[Acknowledged]:
        """Stream from the order's upstream."""
        yield from self._gate.accept(order, primary=(yield from self._running.is_primary()))
        yield from InTurn(self._follow(order))
        yield from Note("following", {"upstream": order.upstream.name, "epoch": order.epoch})
        return self._done()

    def _follow(self, order: FollowOrder) -> Steps[None]:
        self._gate.check_not_overtaken(order)
        self._gate.check_not_primary((yield from self._running.is_primary()))
        yield from Store(rules.follow(self._memory.state, order.upstream, order.epoch))
        yield from self._gate.guard(self._running.start_or_reload())

    def promote(self, order: PromoteOrder) -> Steps[Acknowledged]:
        """Become the primary of the order's epoch."""
        memory = self._memory
        yield from self._gate.accept(order, primary=False)
        promotion = memory.state.promotion
        if not memory.promotion_under_way and (promotion is None or promotion.epoch != order.epoch):
            if not (yield from Look()).ready:
                raise OrderRefused(Refusal.FAILED, "PostgreSQL does not accept connections yet")
            memory.promotion_under_way = True
            yield from BeginPromotion(self._promotion.promote(order))
        if not (yield from AwaitPromotion(patience_s(order))):
            return self._done(done=False, detail="WAL is being replayed")
        carried_out = memory.state.promotion == rules.Promotion(order.epoch, order.timeline)
        if carried_out and (yield from self._running.is_primary()):
            return self._done()
        raise OrderRefused(Refusal.FAILED, memory.problem or "the promotion did not happen")

    def put_in_force(self, order: SynchronousOrder) -> Steps[SynchronousAnswer]:
        """Put a list of synchronous standbys in force and prove it."""
        yield from self._gate.accept(order, primary=(yield from self._running.is_primary()))
        lsn = yield from self._synchronous.put_in_force(order)
        return SynchronousAnswer(node=self._memory.state.node, in_force=order.in_force, barrier_lsn=lsn)

    def configure(self, order: ConfigureOrder) -> Steps[Acknowledged]:
        """Go by the operator's settings from now on."""
        try:
            check(order.desired)
        except SettingRefused as error:
            raise OrderRefused(Refusal.FAILED, str(error)) from error
        yield from self._gate.accept(order, primary=False)
        yield from InTurn(self._configure(order))
        yield from Note("settings taken over", {"version": order.desired.version})
        yield from Poke()
        return self._done()

    def _configure(self, order: ConfigureOrder) -> Steps[None]:
        self._gate.check_not_overtaken(order)
        yield from Store(replace(self._memory.state, desired=order.desired))
        if (yield from Look()).running:
            yield from self._gate.guard(ReloadSettings())

    def checkpoint(self, order: CheckpointOrder) -> Steps[Acknowledged]:
        """Write dirty pages out now, beside everything else."""
        yield from self._gate.accept(order, primary=False)
        try:
            yield from Checkpoint(patience_s(order))
        except Failed as error:
            raise OrderRefused(Refusal.FAILED, f"the checkpoint was not completed: {error}") from error
        return self._done()

    def start(self, order: StartOrder, *, restart: bool = False) -> Steps[Acknowledged]:
        """Start PostgreSQL as a standby; with *restart* stop it first."""
        yield from self._gate.accept(order, primary=False)
        yield from InTurn(self._start(order, restart=restart))
        return self._done()

    def _start(self, order: StartOrder, *, restart: bool) -> Steps[None]:
        self._gate.check_not_overtaken(order)
        yield from Store(replace(self._memory.state, wanted=True))
        yield from ForgetCrashes()
        if restart:
            yield from EndHeartbeat()
            yield from self._gate.guard(Stop(StopMode.FAST))
        if not (yield from Look()).running:
            yield from self._gate.guard(self._running.start_or_reload())

    def stop(self, order: StopOrder) -> Steps[Acknowledged]:
        """Stop PostgreSQL; no process of its data directory is left."""
        yield from self._gate.accept(order, primary=False)
        yield from InTurn(self._stop(order))
        return self._done()

    def _stop(self, order: StopOrder) -> Steps[None]:
        self._gate.check_not_overtaken(order)
        yield from Store(replace(self._memory.state, wanted=False))
        yield from EndHeartbeat()
        yield from self._gate.guard(Stop(order.mode))

    def init(self, order: InitOrder) -> Steps[Acknowledged]:
        """Begin to make a new cluster's data."""
        yield from self._remaking.init(order)
        return self._done(done=False)

    def clone(self, order: CloneOrder) -> Steps[Acknowledged]:
        """Begin to copy another node's data."""
        yield from self._remaking.remake(order)
        return self._done(done=False)

    def rewind(self, order: RewindOrder) -> Steps[Acknowledged]:
        """Begin to rewind the data to another node's history."""
        yield from self._remaking.remake(order)
        return self._done(done=False)

    def _done(self, *, done: bool = True, detail: str = "") -> Acknowledged:
        return Acknowledged(node=self._memory.state.node, done=done, detail=detail)
