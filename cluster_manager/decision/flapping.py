"""How soon one failover may follow another when nobody is known to be dead.

Silence and a heartbeat that waits are soft evidence: a network that comes and goes, or a disk that is slow under load, would
move the writer back and forth and help nobody.  So such failovers keep a distance, and after several in a short time they are
held back for a while, which an operator sees and can end by ordering one.  Hard evidence waits for nothing: there the writer
is gone, and holding back only makes the outage longer.

What happened before this manager began is forgotten.  The journal could tell, but it is not written durably and nothing is
ever decided by it; and its times are wall time, or of a clock that a restart of the machine begins anew.  A manager that
restarts in the middle of a flapping spell therefore allows a few failovers more, each of which is safe.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

FAILOVERS_REMEMBERED = 64
"""The most recent ones, which is more than any rule looks at."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AntiFlap:
    """The manager's patience between failovers upon soft evidence, in milliseconds; 0 switches a rule off."""

    interval_ms: float = 10_000
    """Not so soon after the last one."""
    hold_after: int = 3
    """After so many of them ..."""
    hold_window_ms: float = 600_000
    """... within this time ..."""
    hold_ms: float = 60_000
    """... none for so long, counted from the last."""


@dataclass(frozen=True, slots=True)
class Held:
    """A failover is not begun yet."""

    for_ms: float
    because: str


def held(rules: AntiFlap, failovers_at_ms: Sequence[float], now_ms: float) -> Held | None:
    """Return why a failover upon soft evidence must wait and for how long, or None if it need not.

    *failovers_at_ms*: when each of the earlier ones began, oldest first.
    """
    if not failovers_at_ms:
        return None
    since_ms = now_ms - failovers_at_ms[-1]
    lately = sum(1 for at_ms in failovers_at_ms if now_ms - at_ms < rules.hold_window_ms)
    if 0 < rules.hold_after <= lately and since_ms < rules.hold_ms:
        window = f"{rules.hold_window_ms / 1000:g} s"
        return Held(rules.hold_ms - since_ms, f"{lately} failovers upon such evidence within {window}")
    if since_ms < rules.interval_ms:
        return Held(rules.interval_ms - since_ms, f"the last failover upon such evidence began {since_ms / 1000:.1f} s ago")
    return None
