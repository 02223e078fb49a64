"""One simulated noded process from its start to its death: the real acts, on simulated hands."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from noded.acts.acts import Acts
from noded.acts.effects import Steps
from noded.acts.fence import Fence
from noded.acts.gate import Gate, OrderRefused
from noded.acts.memory import Memory
from noded.law import promise as rules
from noded.law.promise import State
from pgtopology.observation import Observation
from pgtopology.orders import (
    CheckpointOrder,
    CloneOrder,
    ConfigureOrder,
    FollowOrder,
    InitOrder,
    Order,
    PromiseAnswer,
    PromiseOrder,
    PromoteOrder,
    RewindOrder,
    StartOrder,
    StopOrder,
    SynchronousOrder,
)
from tests.sim.brokenacts import WithoutRevision, WithoutStop
from tests.sim.hands import Hands
from tests.sim.ledger import Ledger
from tests.sim.reporter import Heartbeat, Reporter
from tests.sim.switches import Switch
from tests.sim.world import Lock, Owner, Waits

if TYPE_CHECKING:
    from tests.sim.node import SimNode

ROUND_MS = 200.0
WHOLENESS_MS = 100.0

Outcome = msgspec.Struct | tuple[str, str]
"""An answer, or a refusal's code and message."""
Reply = Callable[[Outcome], None]


class Noded(Owner):
    """One noded process."""

    def __init__(self, host: SimNode, pid: int) -> None:
        super().__init__()
        self.host = host
        self.world = host.world
        self.pg = host.pg
        self.pid = pid
        self.broken = host.broken
        self.ledger = Ledger(self)
        self.memory = Memory(self.ledger)
        self.acts = acts = Acts(
            self.memory,
            gate=WithoutRevision if host.broken is Switch.NO_REVISION else Gate,
            fence=WithoutStop if host.broken is Switch.PROMISE_WITHOUT_STOP else Fence,
        )
        self.turn = Lock()
        self.started_up = False
        self.reporter = Reporter(self)
        self.heartbeat = Heartbeat(self)
        self.hands = Hands(self)
        orders = acts.orders
        self._acts: dict[type[Order], Callable[[Any], Steps[msgspec.Struct]]] = {
            PromiseOrder: orders.promise,
            FollowOrder: orders.follow,
            PromoteOrder: orders.promote,
            SynchronousOrder: orders.put_in_force,
            CheckpointOrder: orders.checkpoint,
            InitOrder: orders.init,
            ConfigureOrder: orders.configure,
            StopOrder: orders.stop,
            StartOrder: lambda order: orders.start(order, restart=True),  # which is what a manager asks for
            CloneOrder: orders.clone,
            RewindOrder: orders.rewind,
        }
        host.checks.state_changed(host.name, self.state.promised, (self.state.seen.epoch, self.state.seen.revision))
        self.world.spawn(self, self._live())

    @property
    def state(self) -> State:
        """What it goes by."""
        return self.ledger.value

    def compose(self) -> Observation:
        """Return what is known."""
        return self.reporter.compose()

    def receive(self, order: Order, reply: Reply) -> None:
        """An order arrives over the network."""
        if not self.started_up:
            reply(("unavailable", "noded is starting"))
            return
        self.world.spawn(self, self._answered(order), reply)

    def _answered(self, order: Order) -> Waits:
        try:
            answer = yield from self.hands.whole_act(self._acts[type(order)](order))
        except OrderRefused as refused:
            return str(refused.reason), refused.message
        if isinstance(answer, PromiseAnswer):
            self.host.checks.promised(self.host.name, order.epoch)
        return answer

    def bury(self) -> None:
        """PostgreSQL ended, and nobody ordered it."""
        self.heartbeat.end()
        self.reporter.forget()
        if self.pg.life is None:
            self.reporter.unexpected_exit = True
            promotion = self.state.promotion
            if self.broken is Switch.STARTS_AS_PRIMARY and promotion is not None and rules.may_remain_primary(self.state):
                self.hands.write(rules.writer_configuration(self.state))
                self.pg.start(primary_of=promotion.epoch)
        self.reporter.poke()

    def _live(self) -> Waits:
        yield self.world.jitter(20, 150)
        yield from self.hands.whole_act(self.acts.startup.start_up())
        self.started_up = True
        self.reporter.poke()
        self.world.after(0.0, self, self._round)
        self.world.spawn(self, self._watch_wholeness())
        while True:
            if self.broken is not Switch.PROMISE_WITHOUT_STOP:
                yield from self.hands.carry_out(self.acts.police.look())
            yield ROUND_MS

    def _round(self) -> None:
        self.reporter.poke()
        if self.pg.conf_by_hand and not self.turn.held and self.broken is not Switch.STRANGE_HANDS:
            # Write our file anew if somebody else has written it (S11).
            self.hands.write(self.hands.written)
            self.pg.reload()
        self.reporter.knock()
        self.world.after(ROUND_MS, self, self._round)

    def _watch_wholeness(self) -> Waits:
        yield self.world.jitter(0, 100)
        while True:
            yield WHOLENESS_MS
            yield from self.hands.carry_out(self.acts.wholeness.look())
