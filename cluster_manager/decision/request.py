"""What an operator asks for. Whether it may be done is `refusal`'s business, and doing it that of the transition."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from pgtopology.node import NodeName


class RequestKind(StrEnum):
    """What an operator may ask for."""

    FAILOVER = "failover"
    """Another writer now; in good order if the present one is well."""
    DATA_LOSS = "allow_data_loss"
    """Another writer out of the voters that answer, although commits may be lost."""
    SWITCHOVER = "switchover"
    """Another writer in good order, or none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """An operator's order that has not begun."""

    kind: RequestKind
    to: NodeName | None = None
    drain_ms: int | None = None
    """How long a planned handover lets sessions finish, if not as long as usual."""
    allow_slot_loss: bool = False
    """Hand over also to who has not yet copied users' slots that will be carried over."""
    asked_at_ms: float = 0
