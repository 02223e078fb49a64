"""Which servers a cancel key belongs to.

A client has either a key that we made (longkeys) or, where its protocol has no room for one, the server's own.  Two servers may
hand out the same process number and, once in four billion, the same four bytes with it: then both are told, as both are the
key's.  Pure; bounded by the number of sessions.
"""

from __future__ import annotations

from dataclasses import dataclass

from pgtopology.node import Address
from pgwire.messages import BackendKey


@dataclass(frozen=True, slots=True)
class Cancellable:
    """Where a session can be cancelled, and by what."""

    address: Address
    key: BackendKey
    """The server's own."""


class CancelKeys:
    """The keys of the sessions that live."""

    def __init__(self) -> None:
        self._owners: dict[BackendKey, tuple[tuple[int, Cancellable], ...]] = {}
        """Nearly always one each: tuples, since there are thousands."""
        self._cancelled: set[int] = set()

    def __len__(self) -> int:
        return len(self._owners)

    def add(self, told: BackendKey, session: int, at: Cancellable) -> None:
        """Remember that the client of *session* was *told* this key."""
        self._owners[told] = (*self._owners.get(told, ()), (session, at))

    def remove(self, told: BackendKey, session: int) -> None:
        """Forget the key of an ended session."""
        owners = tuple(owner for owner in self._owners.pop(told, ()) if owner[0] != session)
        if owners:
            self._owners[told] = owners
        self._cancelled.discard(session)

    def cancels(self, session: int) -> None:
        """A request for *session* is about to be sent, and may be late."""
        self._cancelled.add(session)

    def was_cancelled(self, session: int) -> bool:
        """Return whether a request was ever sent for *session*, which lives."""
        return session in self._cancelled

    def find(self, told: BackendKey) -> tuple[Cancellable, ...]:
        """Return where a cancel request with the key *told* must go; empty for a stranger's."""
        return tuple(dict.fromkeys(at for _, at in self._owners.get(told, ())))

    def sessions(self, told: BackendKey) -> tuple[int, ...]:
        """Return the sessions that a cancel request with the key *told* may stop."""
        return tuple(session for session, _ in self._owners.get(told, ()))
