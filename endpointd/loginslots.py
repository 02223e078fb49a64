"""Whose turn it is to log in at a server: no more logins at once than it can spare places for.

A backend of PostgreSQL takes one of max_connections before it knows who asks, so whoever lets strangers through to it lends
them its places.  Here so many may be under way at one server, and fewer from one address; the others wait their turn.  Among
those who wait, the address with the fewest logins under way comes first, then who came first.  When many more wait than may
log in at once, somebody brings more than he finishes, and the newest comes first: an honest client that was refused comes
again, and then does not stand behind all the others.

A server that has no connection left for ordinary roles keeps a few for superusers, and those who try in vain take even these
for as long as it takes to find out who they are.  So while one says that it is full, fewer try at once than it keeps.

While others wait, a client that keeps a login open without finishing it is ended sooner.  Pure.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

PATIENCE_S = 1.0
"""How long a client may take for its part of a login while others wait; two round trips to the far side of the world."""
HURRY_S = 0.2
"""The same while more than a few wait."""


CROWD_FACTOR = 4
"""From so many times what may log in at once the newest comes first."""
TIRED_S = 1.0
"""How long to wait for a turn while clients are ended for keeping theirs."""


FULL_S = 2.0
"""A server that said it is full is taken for full for so long."""
AT_A_FULL_ONE = 3
"""Logins under way at a full server: of the eight connections that noded keeps, some are left for itself and an operator."""


@dataclass(slots=True)
class _Login:
    node: str
    address: str
    since: float
    asked_at: float | None = None
    """When the server asked the client for its part."""


class LoginSlots:
    """The logins under way, and those who wait for their turn, by session."""

    def __init__(self) -> None:
        self._taken: dict[int, _Login] = {}
        self._waiting: dict[int, _Login] = {}
        self._at: Counter[str] = Counter()
        self._from: Counter[tuple[str, str]] = Counter()
        self._full_until: dict[str, float] = {}

    @property
    def waiting(self) -> int:
        """How many wait for their turn."""
        return len(self._waiting)

    def ask(self, session: int, node: str, address: str, now: float, *, most: int, per_address: int) -> bool:
        """Let *session* log in at *node* if there is room; else it waits, until `leave` or its number is in `turns`."""
        login = _Login(node, address, now)
        if self._has_room(login, self._limit(node, now, most), per_address):
            self._take(session, login)
            return True
        self._waiting[session] = login
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

    def leave(self, session: int) -> bool:
        """*session* has logged in, or given up, or ended; return whether it was known here."""
        login = self._taken.pop(session, None)
        if login is None:
            return self._waiting.pop(session, None) is not None
        self._at[login.node] -= 1
        source = login.node, login.address
        self._from[source] -= 1
        if not self._from[source]:
            del self._from[source]
        return True

    def turns(self, now: float, *, most: int, per_address: int) -> tuple[int, ...]:
        """Return those who waited and may log in now."""
        found: list[int] = []
        while self._waiting:
            able = [
                (session, login)
                for session, login in self._waiting.items()
                if self._has_room(login, self._limit(login.node, now, most), per_address)
            ]
            if not able:
                break
            if len(self._waiting) > CROWD_FACTOR * most:
                able.reverse()
            session, login = min(able, key=lambda item: self._from[item[1].node, item[1].address])
            del self._waiting[session]
            self._take(session, login)
            found.append(session)
        return tuple(found)

    def slow(self, now: float, *, most: int) -> tuple[int, ...]:
        """Return whose clients keep a login open for too long while others wait for its place."""
        if not self._waiting:
            return ()
        allowed_s = HURRY_S if len(self._waiting) > most // 4 else PATIENCE_S
        full = {node for node, count in self._at.items() if count >= most}
        wanted = {(login.node, login.address) for login in self._waiting.values()}
        return tuple(
            session
            for session, login in self._taken.items()
            if login.asked_at is not None
            and now - login.asked_at >= allowed_s
            and (login.node in full or (login.node, login.address) in wanted)
        )

    def tired(self, now: float) -> tuple[int, ...]:
        """Return who has waited for TIRED_S: while others keep their places, to come again is better than to wait."""
        return tuple(session for session, login in self._waiting.items() if now - login.since >= TIRED_S)

    def full(self, node: str, now: float) -> None:
        """*node* has refused a login for want of connections."""
        self._full_until[node] = now + FULL_S

    def _limit(self, node: str, now: float, most: int) -> int:
        return min(most, AT_A_FULL_ONE) if now < self._full_until.get(node, now) else most

    def _has_room(self, login: _Login, most: int, per_address: int) -> bool:
        return self._at[login.node] < most and self._from[login.node, login.address] < per_address

    def _take(self, session: int, login: _Login) -> None:
        self._taken[session] = login
        self._at[login.node] += 1
        self._from[login.node, login.address] += 1
