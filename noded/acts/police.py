"""Looks, round after round, at who is a primary here: lets the writer beat, and stops whom nobody ordered (S18)."""

from __future__ import annotations

import contextlib

from msgspec.structs import replace

from noded.acts.effects import BeginHeartbeat, EndHeartbeat, Failed, InTurn, Note, Poke, Recall, Steps, Stop, Store
from noded.acts.fence import Fence
from noded.acts.memory import Memory
from noded.law import promise as rules
from pgtopology.node import Role
from pgtopology.orders import StopMode


class Police:
    """One look."""

    def __init__(self, memory: Memory, fence: Fence) -> None:
        self._memory = memory
        self._fence = fence

    def look(self) -> Steps[None]:
        """Let the writer beat once its timeline is seen to be the claimed one; stop a primary that nobody ordered."""
        memory, promotion = self._memory, self._memory.state.promotion
        known = yield from Recall()
        if known.role is not Role.PRIMARY or known.turn_is_taken or memory.blocked is not None:
            return
        if promotion is not None and rules.may_remain_primary(memory.state, known.timeline):
            yield from BeginHeartbeat(promotion.epoch)
            return
        yield from InTurn(self._end_usurper())
        yield from Poke()

    def _end_usurper(self) -> Steps[None]:
        memory = self._memory
        known = yield from Recall()
        if known.role is not Role.PRIMARY or not known.running:
            return
        yield from Note("this node was promoted by nobody's order and is stopped", {"timeline": known.timeline}, "error")
        yield from EndHeartbeat()
        try:
            # What cannot be written down is not started again either: the next round finds the same primary. Whether its WAL
            # counts is found out at the start: a writer of ours that promised a newer epoch a moment ago is stopped here too.
            yield from Store(replace(memory.state, following=None))
            yield from self._fence.cut(StopMode.IMMEDIATE, promoting=True)
        except (Failed, OSError) as error:
            memory.problem = str(error)
            with contextlib.suppress(Failed):
                yield from Stop(StopMode.IMMEDIATE)
