"""Which sessions a new table ends, and how soon.

A session was given a server in one capacity: as the writer of an epoch, or as a replica.  When the table no longer says so
the session ends, because it would write where nobody may, read where nobody vouches, or write though it was promised a
replica (S19).  A writer that comes back under a new epoch is another writer: what the session had is gone.  Pure.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from endpointd.refusal import Refusal, primary_changed, server_removed
from endpointd.routing.table import Backend, Table
from pgtopology.epoch import Epoch


class When(StrEnum):
    """How soon a session ends."""

    NOW = "now"
    SAFE_POINT = "safe_point"
    """When it is idle, or when the time for draining is over."""


@dataclass(frozen=True, slots=True)
class Assignment:
    """The server a session was given, and by which epoch's table."""

    session: int
    backend: Backend
    epoch: Epoch


@dataclass(frozen=True, slots=True)
class Eviction:
    """A session that ends."""

    session: int
    refusal: Refusal
    when: When


def evictions(new: Table, sessions: Iterable[Assignment]) -> tuple[Eviction, ...]:
    """Return the sessions that *new* ends, in their order."""
    found: list[Eviction] = []
    for assignment in sessions:
        verdict = _verdict(new, assignment)
        if verdict is not None:
            found.append(Eviction(assignment.session, *verdict))
    return tuple(found)


def _verdict(new: Table, assignment: Assignment) -> tuple[Refusal, When] | None:
    backend = assignment.backend
    if backend.is_writer:
        if new.writer is not None and new.writer.node == backend.node and new.epoch == assignment.epoch:
            return None
        return primary_changed(), When.SAFE_POINT if new.is_planned else When.NOW
    if backend.node == new.promoted:
        return primary_changed(), When.NOW
    if backend.node not in new.members:
        return server_removed(backend.node), When.SAFE_POINT
    return None
