"""Whose turn it is to log in at a server: no more logins at once than it can spare places for.

A backend of PostgreSQL takes one of max_connections before it knows who asks, so whoever lets strangers through to it lends
them its places.  Here so many may be under way at one server, and fewer from one address; the others wait their turn.  Among
those who wait, the address with the fewest logins under way comes first, then one that leaves no logins unfinished, then who
came first.

An unfinished login must not hold up one that would be finished, also of the same address.  Alone it has all the time there
is.  While others wait for its place it has PATIENCE_S; while more than a few do, HURRY_S, or more where the clients of its
address have been seen to need more (pace.py), or as little as they need where more logins are left unfinished than finished.
No more are ended than there are others waiting, the longest silent first; none gives way to an address that has as many under
way as its own; and one in PATIENT_PART of an address's keeps its PATIENCE_S, so that clients who have become slower are found
out to be slow and not dead.

Where logins are left unfinished, or many more wait than may log in at once, somebody brings more than he finishes.  Then the
newest and the oldest have their turns alternately: however long the queue, an honest client that comes, or comes again, does
not stand behind all of it, nor is one that was there before the crowd buried under it.

A server that has no connection left for ordinary roles keeps a few for superusers, and those who try in vain take even these
for as long as it takes to find out who they are.  So while one says that it is full, fewer try at once than it keeps.  Pure.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

from endpointd.servers.pace import Pace

PATIENCE_S = 1.0
"""How long a client may take for an answer while others wait; four round trips to the far side of the world."""
HURRY_S = 0.2
"""The same while more than a few wait."""
FLOOR_S = 0.1
"""No client has less, however fast its address has been: the machine may be busy, and each turn costs PostgreSQL a process."""
PATIENT_PART = 8
"""One in so many of an address's logins keeps its PATIENCE_S."""
UNFINISHED_S = 2.0
"""An address that had more logins ended than it has finished since is known for that for so long after the last of them."""


CROWD_FACTOR = 4
"""From so many times what may log in at once the newest comes first too."""
TIRED_S = 0.2
"""How long to wait for a turn at an address that leaves logins unfinished: to come again is better."""


FULL_S = 2.0
"""A server that said it is full is taken for full for so long."""
AT_A_FULL_ONE = 3
"""Logins under way at a full server: of the eight connections that noded keeps, some are left for itself and an operator."""

Source = tuple[str, str]
"""A server, and the address of clients that log in there."""


@dataclass(slots=True)
class _Login:
    node: str
    address: str
    since: float
    order: int
    asked_at: float | None = None
    """When the server asked the client for its part."""
    has_to_go: bool = False

    @property
    def source(self) -> Source:
        return self.node, self.address


@dataclass(frozen=True, slots=True)
class _Unfinished:
    """That an address leaves logins unfinished."""

    count: int
    """How many more were ended than finished."""
    since: float
    until: float


class LoginSlots:
    """The logins under way, and those who wait for their turn, by session."""

    def __init__(self) -> None:
        self._taken: dict[int, _Login] = {}
        self._waiting: dict[int, _Login] = {}
        self._queues: dict[Source, dict[int, _Login]] = {}
        """Those who wait, by source; who came first comes first."""
        self._at: Counter[str] = Counter()
        self._from: Counter[Source] = Counter()
        self._full_until: dict[str, float] = {}
        self._unfinished: dict[str, _Unfinished] = {}
        """By address."""
        self._pace = Pace()
        self._asked = 0
        self._is_newest_next = True

    @property
    def waiting(self) -> int:
        """How many wait for their turn."""
        return len(self._waiting)

    def ask(self, session: int, node: str, address: str, now: float, *, most: int, per_address: int) -> bool:
        """Let *session* log in at *node* if there is room; else it waits, until `leave` or its number is in `turns`."""
        self._asked += 1
        login = _Login(node, address, now, self._asked)
        if self._has_room(login.source, self._limit(node, now, most), per_address):
            self._take(session, login)
            return True
        self._waiting[session] = login
        self._queues.setdefault(login.source, {})[session] = login
        return False

    def has_place(self, session: int, node: str) -> bool:
        """Return whether *session* may log in at *node*: it asked, or its turn has come."""
        login = self._taken.get(session)
        return login is not None and login.node == node

    def asked(self, session: int, now: float) -> None:
        """The server waits for the client from now on."""
        login = self._taken.get(session)
        if login is not None and login.asked_at is None:
            login.asked_at = now

    def finished(self, session: int, now: float) -> None:
        """*session* has logged in; what its address needs for that is remembered."""
        login = self._taken.get(session)
        if login is None:
            return
        known = self._unfinished.pop(login.address, None)
        if known is not None and known.count > 1:
            self._unfinished[login.address] = replace(known, count=known.count - 1)
        if login.asked_at is not None:
            self._pace.learn(login.address, now - login.asked_at)

    def leave(self, session: int) -> bool:
        """*session* has logged in, or given up, or ended; return whether it was known here."""
        login = self._taken.pop(session, None)
        if login is None:
            return self._stop_waiting(session) is not None
        self._at[login.node] -= 1
        self._from[login.source] -= 1
        if not self._from[login.source]:
            del self._from[login.source]
        return True

    def turns(self, now: float, *, most: int, per_address: int) -> tuple[int, ...]:
        """Return those who waited and may log in now."""
        found: list[int] = []
        while self._waiting:
            ranks = {
                source: (self._from[source], self._leaves_unfinished(source[1], now))
                for source in self._queues
                if self._has_room(source, self._limit(source[0], now, most), per_address)
            }
            if not ranks:
                break
            rank = min(ranks.values())
            queues = [self._queues[source] for source in ranks if ranks[source] == rank]
            is_newest = False
            if rank[1] or len(self._waiting) > CROWD_FACTOR * most:
                is_newest, self._is_newest_next = self._is_newest_next, not self._is_newest_next
            if is_newest:
                _, session = max((login.order, session) for session, login in (next(reversed(each.items())) for each in queues))
            else:
                _, session = min((login.order, session) for session, login in (next(iter(each.items())) for each in queues))
            login = self._stop_waiting(session)
            assert login is not None
            self._take(session, login)
            found.append(session)
        return tuple(found)

    def slow(self, now: float, *, most: int, per_address: int) -> tuple[int, ...]:
        """Return whose clients keep a login open for too long while others wait for its place; each of them once."""
        found: list[int] = []
        wanted: Counter[tuple[str, str | None]] = Counter()
        crowds: Counter[str] = Counter()
        for (node, address), queue in self._queues.items():
            # Who has none under way asks for any place of the server; there may be as many such addresses as there are clients.
            wanted[node, address if self._from[node, address] else None] += len(queue)
            crowds[node] += len(queue)
        for (node, address), count in wanted.items():
            own = self._from[node, address] if address is not None else 0
            is_own = own >= per_address
            if not is_own and self._at[node] < self._limit(node, now, most):
                continue
            silent = sorted(
                (login.asked_at, session)
                for session, login in self._taken.items()
                if login.node == node
                and login.asked_at is not None
                and (login.address == address or (not is_own and self._from[login.source] > own))
            )
            left = count - sum(self._taken[session].has_to_go for _, session in silent)
            is_hurried = (count if is_own else crowds[node]) > most // 4
            for session in self._too_slow(silent, now, is_hurried=is_hurried)[: max(0, left)]:
                self._put_out(self._taken[session], now)
                found.append(session)
        return tuple(found)

    def tired(self, now: float) -> tuple[int, ...]:
        """Return who has waited for TIRED_S where logins are left unfinished: to come again is better than to wait."""
        return tuple(
            session
            for session, login in self._waiting.items()
            if self._leaves_unfinished(login.address, now)
            and now - max(login.since, self._unfinished[login.address].since) >= TIRED_S
        )

    def full(self, node: str, now: float) -> None:
        """*node* has refused a login for want of connections."""
        self._full_until[node] = now + FULL_S

    def _limit(self, node: str, now: float, most: int) -> int:
        return min(most, AT_A_FULL_ONE) if now < self._full_until.get(node, now) else most

    def _too_slow(self, silent: list[tuple[float, int]], now: float, *, is_hurried: bool) -> list[int]:
        """Return which of *silent*, since when, have had their time; the longest silent come first in both."""
        found: list[int] = []
        kept: Counter[Source] = Counter()
        for since, session in silent:
            login = self._taken[session]
            if login.has_to_go:
                continue
            if now - since < PATIENCE_S:
                if not is_hurried or now - since < self._enough_s(login.address, now):
                    continue
                kept[login.source] += 1
                if kept[login.source] <= self._from[login.source] // PATIENT_PART:
                    continue
            found.append(session)
        return found

    def _enough_s(self, address: str, now: float) -> float:
        learned_s = self._pace.enough_s(address)
        least_s = FLOOR_S if learned_s is not None and self._leaves_unfinished(address, now) else HURRY_S
        return min(max(learned_s or 0.0, least_s), PATIENCE_S)

    def _put_out(self, login: _Login, now: float) -> None:
        login.has_to_go = True
        self._unfinished = {address: known for address, known in self._unfinished.items() if now < known.until}
        known = self._unfinished.get(login.address, _Unfinished(0, now, now))
        self._unfinished[login.address] = replace(known, count=known.count + 1, until=now + UNFINISHED_S)

    def _leaves_unfinished(self, address: str, now: float) -> bool:
        known = self._unfinished.get(address)
        return known is not None and now < known.until

    def _stop_waiting(self, session: int) -> _Login | None:
        login = self._waiting.pop(session, None)
        if login is not None:
            queue = self._queues[login.source]
            del queue[session]
            if not queue:
                del self._queues[login.source]
        return login

    def _has_room(self, source: Source, most: int, per_address: int) -> bool:
        return self._at[source[0]] < most and self._from[source] < per_address

    def _take(self, session: int, login: _Login) -> None:
        self._taken[session] = login
        self._at[login.node] += 1
        self._from[login.source] += 1
