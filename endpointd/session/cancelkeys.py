"""Which server a cancel key belongs to.

In this form a client holds the backend's own key, so the table maps it to where the backend is.  Two servers may hand out
the same process number and, once in four billion, the same secret with it: then both are told, as both are the key's.
Pure; bounded by the number of sessions.
"""

from __future__ import annotations

from pgtopology.node import Address
from pgwire.messages import BackendKey


class CancelKeys:
    """The keys of the sessions that live."""

    def __init__(self) -> None:
        self._owners: dict[BackendKey, dict[int, Address]] = {}

    def __len__(self) -> int:
        return len(self._owners)

    def add(self, key: BackendKey, session: int, address: Address) -> None:
        """Remember that *key* is *session*'s, whose server listens at *address*."""
        self._owners.setdefault(key, {})[session] = address

    def remove(self, key: BackendKey, session: int) -> None:
        """Forget the key of an ended session."""
        owners = self._owners.get(key)
        if owners is not None:
            owners.pop(session, None)
            if not owners:
                del self._owners[key]

    def find(self, key: BackendKey) -> tuple[Address, ...]:
        """Return where a cancel request with *key* must go; empty for a stranger's."""
        return tuple(dict.fromkeys(self._owners.get(key, {}).values()))

    def sessions(self, key: BackendKey) -> tuple[int, ...]:
        """Return the sessions that a cancel request with *key* may stop."""
        return tuple(self._owners.get(key, ()))
