"""Makes this standby the primary of one epoch, on the timeline that was claimed for it and on no other.

The promotion is durable before its first effect on PostgreSQL, so that whatever happens from there on, this data counts as
promoted in that epoch.  Synchronous names stand before the promotion, which only replaces one list by another (S1).  Once
triggered it cannot be taken back: what does not end well is stopped.
"""

from __future__ import annotations

import contextlib

from msgspec.structs import replace

from noded.acts.effects import (
    AwaitPrimary,
    BeginHeartbeat,
    EnsureSlots,
    Failed,
    InTurn,
    Note,
    PlantPlaceholders,
    Poke,
    Reconfigure,
    Steps,
    Stop,
    Store,
    TriggerPromotion,
)
from noded.acts.memory import Memory
from noded.law import promise as rules
from pgtopology.orders import PromoteOrder, StopMode
from pgtopology.quorum import synchronous_standby_names


class Promotion:
    """Ends with a beating writer or with PostgreSQL stopped."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory

    def promote(self, order: PromoteOrder) -> Steps[None]:
        """Become the primary of the order's epoch, once it is this one's turn."""
        try:
            yield from InTurn(self._in_turn(order))
        finally:
            self._memory.promotion_under_way = False
        yield from Poke()

    def _in_turn(self, order: PromoteOrder) -> Steps[None]:
        memory, state = self._memory, self._memory.state
        if state.promised != order.epoch or (state.promotion is not None and state.promotion.epoch >= order.epoch):
            return
        memory.promoting = True
        memory.problem = None
        try:
            yield from self._become_primary(order)
            yield from BeginHeartbeat(order.epoch)
            yield from Note("promoted", {"epoch": order.epoch, "timeline": order.timeline})
        except (Failed, OSError) as error:
            yield from Note("promotion failed", {"epoch": order.epoch, "error": str(error)}, "warning")
            memory.problem = f"the promotion failed: {error}"
            with contextlib.suppress(Failed):
                yield from Stop(StopMode.IMMEDIATE)
        finally:
            memory.promoting = False

    def _become_primary(self, order: PromoteOrder) -> Steps[None]:
        """Raises Failed, OSError."""
        memory = self._memory
        # Missing slots are made later; the promotion does not wait for them.
        yield from EnsureSlots()
        # From here on this data counts as promoted in this epoch, whatever becomes of it.
        promotion = rules.Promotion(order.epoch, order.timeline)
        yield from Store(replace(memory.state, promotion=promotion, in_force=order.voters, following=None))
        # The list before, a standby's, was not empty: the checkpointer only goes from one to the other (S1).
        memory.list_is_proven = bool(synchronous_standby_names(order.voters, memory.state.node))
        # Walsenders that have not read the new list go by a standby's, under which nobody is released.
        memory.proven_list = order.voters
        yield from Reconfigure(rules.writer_configuration(memory.state), promoted=True)
        yield from PlantPlaceholders(order.timeline)
        yield from TriggerPromotion(order.epoch)
        # Replay is waited for as long as it takes, unless a newer promise has ended that (L5).
        found = yield from AwaitPrimary(lambda: memory.state.promised == order.epoch)
        if found != order.timeline:
            raise Failed(f"PostgreSQL chose timeline {found}, not {order.timeline}")
