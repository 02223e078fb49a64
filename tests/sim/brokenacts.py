"""Acts of noded that leave one sentence of the law out, for the switches that no effect can be broken for."""

from __future__ import annotations

from msgspec.structs import replace

from noded.acts.effects import AskRole, Steps
from noded.acts.fence import Cut, Fence
from noded.acts.gate import Gate, OrderRefused
from noded.acts.memory import Memory
from noded.law.promise import Circumstances
from pgtopology.node import Role
from pgtopology.orders import Order, Refusal, StopMode


class WithoutRevision(Gate):
    """Accepts the orders of one epoch in any sequence (S8)."""

    def __init__(self, memory: Memory) -> None:
        super().__init__(memory)
        self._knows = memory

    def check_rules(self, order: Order, now: Circumstances) -> None:
        """Judge it as if it were the newest."""
        seen = self._knows.state.seen
        if order.epoch == seen.epoch:
            order = replace(order, revision=max(order.revision, seen.revision))
        super().check_rules(order, now)

    def check_not_overtaken(self, order: Order) -> None:
        """Look at the epoch alone."""
        if max(self._knows.state.promised, self._knows.state.seen.epoch) > order.epoch:
            raise OrderRefused(Refusal.STALE, "a newer order came meanwhile")


class WithoutStop(Fence):
    """Leaves a running primary as it is (S4)."""

    def cut(self, stop_mode: StopMode, *, fast_s: float | None = None, promoting: bool) -> Steps[Cut]:
        """Cut a standby alone."""
        if (yield from AskRole()) is Role.PRIMARY:
            return Cut(was_primary=True)
        return (yield from super().cut(stop_mode, fast_s=fast_s, promoting=promoting))
