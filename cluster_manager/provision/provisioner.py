"""The seam between the manager and whoever makes the machines of nodes, starts programs on them, and takes them away.

Each call is under a deadline of the implementation's own and answers with a value; the same call may be made again after any
answer, and after none.  The contract that every implementation passes is tests/integration/test_provisioner.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from pgtopology.supervision import PlannedNode


@dataclass(frozen=True, slots=True)
class Made:
    """The node is there, or is being made: its noded reports by itself."""

    node: PlannedNode


@dataclass(frozen=True, slots=True)
class Proposed:
    """The node can be made as it is asked, as far as can be said beforehand."""

    node: PlannedNode


@dataclass(frozen=True, slots=True)
class Gone:
    """There is no such node, and nothing that was to be put away of one."""


@dataclass(frozen=True, slots=True)
class Leads:
    """The node is led out: once it votes no more its programs are stopped, and what is left of it is put away."""


@dataclass(frozen=True, slots=True)
class Declined:
    """It must not be done as it was asked."""

    reason: str


@dataclass(frozen=True, slots=True)
class ByOthers:
    """It is not for this manager to do: others make the machines."""

    reason: str


@dataclass(frozen=True, slots=True)
class Unheard:
    """Who should do it does not answer. Whether it is done is unknown: the call may be made again."""

    reason: str


Answer = Made | Leads | Gone | Declined | ByOthers | Unheard
"""To an order."""


class Provisioner(Protocol):
    """Makes nodes, and takes them away."""

    async def propose(self, name: str | None, zone: str | None) -> Proposed | Declined | ByOthers | Unheard:
        """Say which node `make` would make, and what is against it; nothing is made. One that is there already is Proposed."""
        ...

    async def make(self, name: str | None, zone: str | None) -> Made | Declined | ByOthers | Unheard:
        """Make the node *name*, or the first that is free, in *zone*. One that is there already is Made."""
        ...

    async def lead_out(self, name: str, *, purge: bool) -> Leads | Gone | Declined | ByOthers | Unheard:
        """Have the node *name*, which the document says is leaving, taken away, with *purge* its data too: Leads until Gone."""
        ...
