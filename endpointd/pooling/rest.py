"""How long a pool leaves servers alone after one that it could not have. Pure.

A server that is not to be reached may be there again in a moment, and a failover is waited for, so it is tried soon and ever
again.  A limit of the role's own is another thing: nothing but the end of one of its sessions changes it, each try costs
PostgreSQL a process, and the answer is the same for as long as those sessions like to stay.  So it is tried less and less.
"""

from __future__ import annotations

RETRY_S = 0.25
"""After a server that could not be had, before it is tried again."""
AT_LIMIT_MAX_S = 5.0
"""The longest rest of a pool whose role or database is at its own limit: so long may room be unnoticed."""


class Rest:
    """Of one pool."""

    def __init__(self) -> None:
        self.until = 0.0
        """Before that no server is tried."""
        self.is_failing = False
        """Whether the last server could not be had: then one at a time is tried, for all."""
        self._next_s = RETRY_S

    def succeeded(self) -> None:
        """There is a server."""
        self.is_failing, self._next_s = False, RETRY_S

    def failed(self, now: float, *, is_at_limit: bool) -> None:
        """There is none; *is_at_limit*: because the role or the database has as many sessions as it may.

        Several that were under way together are one failure.
        """
        self.is_failing = True
        if now < self.until:
            return
        if not is_at_limit:
            self._next_s = RETRY_S
        self.until = now + self._next_s
        if is_at_limit:
            self._next_s = min(2 * self._next_s, AT_LIMIT_MAX_S)
