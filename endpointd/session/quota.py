"""How many sessions one user and one database may have here at once.

Counted, as PostgreSQL does, from the moment a server has found out that the client is who it says: strangers cannot use up the
places of a user whose name they know.  Whoever is not let in hears what PostgreSQL would tell.  Pure; bounded by the number of
sessions.
"""

from __future__ import annotations

from collections import Counter

from endpointd import refusal
from endpointd.refusal import Refusal


class Quota:
    """The sessions of each user and of each database."""

    def __init__(self) -> None:
        self._users: Counter[str] = Counter()
        self._databases: Counter[str] = Counter()
        self._taken: dict[int, tuple[str, str]] = {}

    def __len__(self) -> int:
        return len(self._taken)

    def take(
        self,
        session: int,
        user: str,
        database: str,
        *,
        per_user: int | None,
        per_database: int | None,
        full: Refusal | None = None,
        most: int | None = None,
    ) -> Refusal | None:
        """Count *session*, once; or return why it may not come in. None: as many as like. *full*: the answer beyond *most*."""
        if session in self._taken:
            return None
        if full is not None and most is not None and len(self._taken) >= most:
            return full
        if per_user is not None and self._users[user] >= per_user:
            return refusal.too_many_for_user(user)
        if per_database is not None and self._databases[database] >= per_database:
            return refusal.too_many_for_database(database)
        self._users[user] += 1
        self._databases[database] += 1
        self._taken[session] = user, database
        return None

    def give_back(self, session: int) -> None:
        """*session* has ended, counted or not."""
        taken = self._taken.pop(session, None)
        if taken is None:
            return
        for counts, name in zip((self._users, self._databases), taken, strict=True):
            counts[name] -= 1
            if not counts[name]:
                del counts[name]
