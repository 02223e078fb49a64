"""Places that a process counts itself, by the limits that hold now."""

from __future__ import annotations

from collections.abc import Callable

from endpointd.session.quota import Place, Quota
from endpointd.settings import LimitSettings


def take_place(quota: Quota, session: int, user: str, database: str, limits: LimitSettings) -> Place:
    """Count *session* in *quota*, once; or return why it may not come in."""
    return quota.take(
        session,
        user,
        database,
        most=limits.sessions_max,
        per_user=limits.per_user_max,
        per_database=limits.per_database_max,
    )


class OwnPlaces:
    """Places that this process counts itself (Places)."""

    def __init__(self, quota: Quota, limits: Callable[[], LimitSettings], freed: Callable[[], None] = lambda: None) -> None:
        """*freed* is called when one has been given back."""
        self._quota = quota
        self._limits = limits
        self._freed = freed

    @property
    def is_full(self) -> bool:
        """Whether there is no place for anybody."""
        return len(self._quota) >= self._limits().sessions_max

    def take(self, session: int, user: str, database: str, told: Callable[[Place], None]) -> Place:
        """See Places; the answer is there at once."""
        del told
        return take_place(self._quota, session, user, database, self._limits())

    def give_back(self, session: int) -> None:
        """See Places."""
        self._quota.give_back(session)
        self._freed()
