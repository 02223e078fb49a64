"""How many sessions there may be at once: of all, of one user and of one database.

Counted, as PostgreSQL does, from the moment a server has found out that the client is who it says: strangers cannot use up the
places of a user whose name they know.  Pure; bounded by the number of sessions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from enum import StrEnum
from typing import Protocol


class Place(StrEnum):
    """What comes of asking for a place."""

    TAKEN = "taken"
    ASKED = "asked"
    """Somebody else counts, and will say."""
    FULL = "full"
    """There are as many sessions as may be."""
    USER_FULL = "user_full"
    DATABASE_FULL = "database_full"


class Places(Protocol):
    """Where a session gets its place among those of all processes of the proxy."""

    @property
    def is_full(self) -> bool:
        """Whether there is no place for anybody."""
        ...

    def take(self, session: int, user: str, database: str, told: Callable[[Place], None]) -> Place:
        """Give *session* a place, once, or say why not; after ASKED *told* is called with the answer, later."""
        ...

    def give_back(self, session: int) -> None:
        """*session* has ended, counted or not."""
        ...


class Quota:
    """The sessions of each user and of each database."""

    def __init__(self) -> None:
        self._users: Counter[str] = Counter()
        self._databases: Counter[str] = Counter()
        self._taken: dict[int, tuple[str, str]] = {}

    def __len__(self) -> int:
        return len(self._taken)

    def take(
        self, session: int, user: str, database: str, *, most: int, per_user: int | None = None, per_database: int | None = None
    ) -> Place:
        """Count *session*, once; or return why it may not come in. None: as many as like."""
        if session in self._taken:
            return Place.TAKEN
        if len(self._taken) >= most:
            return Place.FULL
        if per_user is not None and self._users[user] >= per_user:
            return Place.USER_FULL
        if per_database is not None and self._databases[database] >= per_database:
            return Place.DATABASE_FULL
        self._users[user] += 1
        self._databases[database] += 1
        self._taken[session] = user, database
        return Place.TAKEN

    def give_back(self, session: int) -> None:
        """*session* has ended, counted or not."""
        taken = self._taken.pop(session, None)
        if taken is None:
            return
        for counts, name in zip((self._users, self._databases), taken, strict=True):
            counts[name] -= 1
            if not counts[name]:
                del counts[name]
