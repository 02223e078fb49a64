"""The seam between the manager and the place where the topology document lives.

A store keeps one document and changes it by compare-and-swap on its revision, so that a manager that lost its place cannot
overwrite what another one wrote.  It also grants the lease: who holds it is the manager that may decide and serve.  The
store knows nothing of what a document means; which one may follow which is succession.may_follow, asked before.  Beside the
document it keeps one record more, the nodes that the cluster is to have, in the same way and under the same lease.

Every call has a deadline of the implementation's own and raises StoreError.  The contract every implementation passes is
tests/contracts/test_store.py.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

from pgtopology.desired_nodes import DesiredNodes
from pgtopology.document import Topology
from pgtopology.epoch import Revision


class StoreError(Exception):
    """The store did not do what was asked.

    StoreUnavailable: no answer; a write may or may not have happened.
    StoreHeld: another manager holds the store.
    LeaseLost: this manager does not hold the lease, and nothing was written.
    StoreCorrupt: what is stored cannot be used; a person must look.
    """


class StoreUnavailable(StoreError):  # noqa: N818 - the name says what is known
    """The store did not answer. Whether a write was made is unknown: read before writing again."""


class StoreHeld(StoreError):  # noqa: N818 - as above
    """Another manager holds the store; the text says who, as far as can be known."""


class LeaseLost(StoreError):  # noqa: N818 - as above
    """This manager does not hold the lease any more. Nothing was written."""


class StoreCorrupt(StoreError):  # noqa: N818 - as above
    """What is stored cannot be used: it was written by a newer version of ours, or by another program."""


class StoreDamaged(StoreCorrupt):
    """What is stored is garbage, and nobody can use it any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseState:
    """Who leads, and for how long that is certain."""

    held: bool
    """Whether this manager does."""
    remaining_ms: int
    """For how long from now nobody else can hold the lease, even if the store is not reached again; 0 unless held."""
    holder: str | None
    """Who holds it, for people; None if nobody does or nobody knows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteResult:
    """What came of a write. True in a condition if it was made."""

    written: bool
    stored: Topology | None
    """What the store holds now: the new document, or the one that stood in its way."""

    def __bool__(self) -> bool:
        return self.written


class Store(Protocol):
    """A linearizable home for one topology document, open while its ``async with`` block runs.

    An implementation that only one process can use raises StoreHeld on entry.
    """

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    async def read(self) -> Topology | None:
        """Return the document, or None if there has never been one."""
        ...

    async def write(self, new: Topology, *, expected: Revision | None) -> WriteResult:
        """Store *new* if the stored revision is *expected*, None standing for "no document"; durable when this returns.

        Needs the lease: raises LeaseLost without it. Raises StoreUnavailable if the outcome is unknown.
        """
        ...

    async def read_desired(self) -> DesiredNodes | None:
        """Return the record of the desired nodes; None if there has never been one, or it was damaged and is given up.

        Raises StoreUnavailable too for a record that a newer version wrote: the document can be used without it.
        """
        ...

    async def write_desired(self, new: DesiredNodes, *, expected: int | None) -> bool:
        """Store *new* if the stored record's revision is *expected*, None standing for "no record"; return whether it was.

        Durable when this returns, needs the lease, and raises as `write` does.
        """
        ...

    async def acquire(self, holder: str) -> LeaseState:
        """Try once to get the lease in the name of *holder*; returns at once, whoever has it."""
        ...

    async def keep(self) -> LeaseState:
        """Renew the lease, and return what is known of it. Call it several times within `remaining_ms`."""
        ...

    @property
    def lease(self) -> LeaseState:
        """What is known of the lease at this moment, without asking anybody."""
        ...

    async def release(self) -> None:
        """Give the lease up, so that another manager need not wait for its end. Nothing happens if it is not held."""
        ...

    def watch(self, after: Revision | None) -> AsyncGenerator[Topology, None]:
        """Yield the document whenever its revision is another than the last one yielded (first: than *after*).

        A slow reader gets the newest; those in between are left out.
        """
        ...
