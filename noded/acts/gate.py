"""Whether an order is accepted, and whether it still holds when its turn has come.

The rules are in `law.promise`.  What is accepted is durable before anything else happens, the pair it carries included (S8).
"""

from __future__ import annotations

from collections.abc import Callable

from noded.acts.effects import Act, Failed, LearnSlots, Poke, Recall, Steps, Store, T
from noded.acts.memory import Memory
from noded.law import promise as rules
from noded.law.promise import Circumstances, State
from pgtopology.node import Role
from pgtopology.orders import Order, PromiseOrder, Refusal

ANSWER_RESERVE_S = 0.05
"""An answer leaves this long before the deadline its order carries."""


class OrderRefused(Exception):  # noqa: N818 - it says what was done, and is part of the interface
    """An order was not carried out; PostgreSQL is as the durable state says."""

    def __init__(self, reason: Refusal, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


def patience_s(order: Order) -> float:
    """Return how long the answer to *order* may take."""
    return max(0.0, order.deadline_ms / 1000 - ANSWER_RESERVE_S)


def _as_it_is(state: State) -> State:
    return state


class Gate:
    """What every order passes."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory

    def accept(self, order: Order, *, primary: bool, change: Callable[[State], State] = _as_it_is) -> Steps[None]:
        """Raise OrderRefused if *order* may not be carried out; else make durable that it was seen, and *change*."""
        memory = self._memory
        self._check_open()
        if memory.blocked is not None and (not isinstance(order, PromiseOrder) or memory.unreadable is not None):
            raise OrderRefused(Refusal.FAILED, memory.blocked)
        known = yield from Recall()
        standby = known.running and known.role is Role.STANDBY
        self.check_rules(order, Circumstances(primary=primary, standby=standby, busy=memory.work))
        yield from Store(change(rules.see(memory.state, order)))
        yield from LearnSlots(order.slots)

    def check_rules(self, order: Order, now: Circumstances) -> None:
        """Raise OrderRefused if the rules forbid *order*."""
        refused = rules.refusal(self._memory.state, order, now)
        if refused is not None:
            raise OrderRefused(refused.reason, refused.message)

    def check_not_overtaken(self, order: Order) -> None:
        """Raise OrderRefused if a newer order came while this one waited, or noded is stopping."""
        self._check_open()
        refused = rules.overtaken(self._memory.state, order)
        if refused is not None:
            raise OrderRefused(refused.reason, refused.message)

    def check_not_primary(self, primary: bool) -> None:
        """Raise OrderRefused if PostgreSQL became a primary while an order waited."""
        if primary:
            raise OrderRefused(Refusal.RUNNING_PRIMARY, "this node has become a primary meanwhile")

    def guard(self, steps: Act[T]) -> Steps[T]:
        """Return what *steps* do, their failures as a refusal; whatever came of it is told."""
        try:
            done = yield from steps
        except (Failed, OSError) as error:
            self._memory.problem = str(error)
            yield from Poke()
            raise OrderRefused(Refusal.FAILED, str(error)) from error
        yield from Poke()
        return done

    def _check_open(self) -> None:
        if self._memory.closing:
            raise OrderRefused(Refusal.FAILED, "noded is stopping")
