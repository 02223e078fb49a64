"""How long an address waits for its next "wrong password", and for its next try if it did not wait for that. Pure.

Slowed is the address and not the user, or anybody could lock a user out.  The first few failures cost nothing, because people
mistype; then each costs twice as much as the one before.  Only so many addresses are remembered; the oldest is forgotten.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

FREE = 3
"""Failures that cost nothing."""
FIRST_S = 0.1
MOST_S = 1.0
FORGIVEN_S = 30.0
"""An address that has not failed for so long is as good as new."""
ADDRESSES_MAX = 4096


@dataclass(frozen=True, slots=True)
class _Failures:
    count: int
    last: float
    until: float
    """When the last one's answer is given; before that nobody unfamiliar there is asked for a proof."""


class Slowdown:
    """The addresses that failed lately."""

    def __init__(self) -> None:
        self._failures: OrderedDict[str, _Failures] = OrderedDict()

    def __len__(self) -> int:
        return len(self._failures)

    def failed(self, address: str, now: float) -> float:
        """Note a failure of *address* and return for how many seconds its answer is to be held back."""
        known = self._failures.pop(address, None)
        count = known.count + 1 if known is not None and now - known.last < FORGIVEN_S else 1
        delay_s = min(FIRST_S * 2.0 ** min(count - FREE - 1, 16), MOST_S) if count > FREE else 0.0
        self._failures[address] = _Failures(count, now, now + delay_s)
        if len(self._failures) > ADDRESSES_MAX:
            self._failures.popitem(last=False)
        return delay_s

    def left_s(self, address: str, now: float) -> float:
        """Return for how many seconds the answer to the last failure of *address* is still held back, heard or not."""
        known = self._failures.get(address)
        return max(0.0, known.until - now) if known is not None else 0.0
