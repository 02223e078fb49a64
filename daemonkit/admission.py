"""Who may stay at a listener that strangers reach: pure accounting, without a clock or a socket.

Whoever connects is a stranger until it has proved what it is (a token, a login), and strangers have a budget of their own: in
total, for each address, and in time.  When it is spent, nobody is turned away at the door; the oldest stranger of the address
that has most of them goes, because an honest client proves itself within milliseconds and one that is silent does not.  So a
crowd from one address cannot keep out another address, and at the same address the newcomer has the better chance.  Whoever
has proved itself is counted apart and never gives way to strangers.
"""

from __future__ import annotations

import functools
import ipaddress
from dataclasses import dataclass

HURRY_FROM = 0.5
"""The part of the strangers' budget from which on they have less time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What one listener allows."""

    strangers_max: int
    known_max: int
    stranger_s: float
    """How long somebody may remain a stranger."""
    hurried_s: float
    """The same while there are many of them."""
    strangers_per_address_max: int | None = None
    """None: as many as there may be at all."""


class Admission:
    """The guests of one listener, by number."""

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self._strangers: dict[int, tuple[str, float]] = {}
        """Address, and since when; the oldest first."""
        self._by_address: dict[str, dict[int, None]] = {}
        self._known: set[int] = set()

    @property
    def strangers(self) -> int:
        """How many have not proved themselves."""
        return len(self._strangers)

    @property
    def known(self) -> int:
        """How many have."""
        return len(self._known)

    def enter(self, guest: int, address: str, now: float) -> tuple[int, ...]:
        """Count *guest*, and return who has to go for it: perhaps nobody, never more than one."""
        self._remember(guest, address, now)
        most = self.budget.strangers_per_address_max
        if most is not None and len(self._by_address[address]) > most:
            return (next(iter(self._by_address[address])),)
        if len(self._strangers) > self.budget.strangers_max:
            crowd = max(self._by_address.values(), key=len)
            return (next(iter(crowd)),)
        return ()

    def admit(self, guest: int) -> bool:
        """*guest* has proved itself. Return False if there are too many of those already."""
        if guest in self._known:
            return True
        if len(self._known) >= self.budget.known_max:
            return False
        self.leave(guest)
        self._known.add(guest)
        return True

    def renew(self, guest: int, now: float) -> None:
        """Give a stranger its time anew: it was served."""
        found = self._strangers.get(guest)
        if found is not None:
            self.leave(guest)
            self._remember(guest, found[0], now)

    def leave(self, guest: int) -> None:
        """*guest* has gone, counted or not."""
        self._known.discard(guest)
        found = self._strangers.pop(guest, None)
        if found is not None:
            self._leave_company(guest, found[0])

    def move(self, guest: int, address: str) -> tuple[int, ...]:
        """Count a stranger under *address* instead, where it is the newest, and return who has to go for it, if anybody."""
        found = self._strangers.get(guest)
        if found is None or found[0] == address:
            return ()
        self._leave_company(guest, found[0])
        self._strangers[guest] = address, found[1]  # its place among all, and its time, are what they were
        company = self._by_address.setdefault(address, {})
        company[guest] = None
        most = self.budget.strangers_per_address_max
        return (next(iter(company)),) if most is not None and len(company) > most else ()

    def address_of(self, guest: int) -> str | None:
        """Return where a stranger is from."""
        found = self._strangers.get(guest)
        return found[0] if found is not None else None

    def oldest(self) -> int | None:
        """Return the stranger who has been here longest."""
        return next(iter(self._strangers), None)

    def overdue(self, now: float) -> tuple[int, ...]:
        """Return whose time is over."""
        hurried = len(self._strangers) > HURRY_FROM * self.budget.strangers_max
        allowed_s = self.budget.hurried_s if hurried else self.budget.stranger_s
        late: list[int] = []
        for guest, (_, since) in self._strangers.items():
            if now - since < allowed_s:
                break
            late.append(guest)
        return tuple(late)

    def _leave_company(self, guest: int, address: str) -> None:
        company = self._by_address[address]
        del company[guest]
        if not company:
            del self._by_address[address]

    def _remember(self, guest: int, address: str, now: float) -> None:
        self._strangers[guest] = address, now
        self._by_address.setdefault(address, {})[guest] = None


@functools.lru_cache(maxsize=1024)
def address_group(host: str) -> str:
    """Return the address that *host* counts as: an IPv6 customer has a /64, and IPv4 written as IPv6 is IPv4."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if address.version == 4:
        return host
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((int(address) >> 64 << 64, 64)))
