"""The seam between the manager and whatever makes the cluster's names known.

The embedded server (server.py) answers by itself; a backend that pushes the same records to somebody else's server fits the
same seam.  The manager never waits for names: a failover is over when the document says so.
"""

from __future__ import annotations

from types import TracebackType
from typing import Protocol, Self

from pgtopology.document import Topology


class NameBackend(Protocol):
    """Makes names follow the document while its ``async with`` block runs."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def update(self, topology: Topology) -> None:
        """Make the names those of *topology*.

        Returns at once and never fails because of the world outside: a backend that needs time keeps the newest document and
        works towards it, again and again until it is done.  The same document twice is nothing new; an older one is ignored.
        """
        ...
