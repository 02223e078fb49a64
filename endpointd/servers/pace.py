"""How long the clients of an address take for their part of a login.

Learned from logins that were finished, and from no others, as TCP learns how long to wait for an acknowledgement (RFC 6298,
section 2): a smoothed mean and four times the smoothed deviation.  Pure; the address that finished none for longest is
forgotten.
"""

from __future__ import annotations

ADDRESSES_MAX = 4096
MEAN_WEIGHT = 1 / 8
DEVIATION_WEIGHT = 1 / 4
DEVIATIONS = 4


class Pace:
    """What was learned, by address."""

    def __init__(self) -> None:
        self._learned: dict[str, tuple[float, float]] = {}
        """Mean and deviation, in seconds; who finished a login last is at the end."""

    def learn(self, address: str, took_s: float) -> None:
        """A client of *address* finished a login, and took so long for its part."""
        mean_s, deviation_s = self._learned.pop(address, (took_s, took_s / 2 / (1 - DEVIATION_WEIGHT)))
        deviation_s += DEVIATION_WEIGHT * (abs(mean_s - took_s) - deviation_s)
        self._learned[address] = mean_s + MEAN_WEIGHT * (took_s - mean_s), deviation_s
        if len(self._learned) > ADDRESSES_MAX:
            del self._learned[next(iter(self._learned))]

    def enough_s(self, address: str) -> float | None:
        """Return in what time a client of *address* has done its part if it will; None if none there has ever finished."""
        if address not in self._learned:
            return None
        mean_s, deviation_s = self._learned[address]
        return mean_s + DEVIATIONS * deviation_s
