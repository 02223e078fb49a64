"""Who has lately logged in from where. Pure.

A login of somebody who is not familiar waits until the roles have been looked at, so that a role that was made a moment ago
can log in at once.  Whether the name exists must not show in that wait: so familiar is not who is known to exist, but who has
logged in from the same address, which a stranger's address has not.
"""

from __future__ import annotations

from collections import OrderedDict

LASTS_S = 60.0
LOGINS_MAX = 8192
"""Remembered; the one that was longest ago is forgotten first."""


class Familiar:
    """The logins that succeeded lately, by address and user."""

    def __init__(self) -> None:
        self._logins: OrderedDict[tuple[str, str], float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._logins)

    def knows(self, address: str, user: str, now: float) -> bool:
        """Return whether *user* has logged in from *address* within LASTS_S, and not failed since."""
        last = self._logins.get((address, user))
        return last is not None and now - last < LASTS_S

    def remembers(self, address: str, user: str) -> bool:
        """Return whether *user* has logged in from *address* as far back as is remembered, and not failed since."""
        return (address, user) in self._logins

    def succeeded(self, address: str, user: str, now: float) -> None:
        """*user* has logged in from *address*."""
        self._logins.pop((address, user), None)
        self._logins[address, user] = now
        if len(self._logins) > LOGINS_MAX:
            self._logins.popitem(last=False)

    def failed(self, address: str, user: str) -> None:
        """*user* has given a wrong password from *address*: it may have been changed a moment ago."""
        self._logins.pop((address, user), None)
