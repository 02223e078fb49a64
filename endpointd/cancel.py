"""Which server a cancel key belongs to.

In this form a client holds the backend's own key, so the table maps it to where the backend is.  Two servers may hand out
the same process number and, once in four milliards, the same secret with it: then both are told, as both are the key's.
Pure; bounded by the number of sessions.
"""

from __future__ import annotations

from endpointd.safepoint import SafePoint
from pgtopology.node import Address
from pgwire.messages import BackendKey


class CancelKeys:
    """The keys of the sessions that live."""

    def __init__(self) -> None:
        self._owners: dict[BackendKey, dict[int, tuple[Address, SafePoint]]] = {}

    def __len__(self) -> int:
        return len(self._owners)

    def add(self, key: BackendKey, session: int, address: Address, point: SafePoint) -> None:
        """Remember that *key* is *session*'s, whose server listens at *address* and which *point* follows."""
        self._owners.setdefault(key, {})[session] = address, point

    def remove(self, key: BackendKey, session: int) -> None:
        """Forget the key of an ended session."""
        owners = self._owners.get(key)
        if owners is not None:
            owners.pop(session, None)
            if not owners:
                del self._owners[key]

    def find(self, key: BackendKey) -> tuple[Address, ...]:
        """Return where a cancel request with *key* must go; empty for a stranger's."""
        return tuple(dict.fromkeys(address for address, _ in self._owners.get(key, {}).values()))

    def points(self, key: BackendKey) -> tuple[SafePoint, ...]:
        """Return the sessions that a cancel request with *key* may stop."""
        return tuple(point for _, point in self._owners.get(key, {}).values())
