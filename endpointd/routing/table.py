"""Which servers an endpoint stands for: an immutable table, made whole from one topology document.

It knows documents, not whether they are still true: that is freshness.  It lists who is eligible and leaves the choice among
them to balance.  The node that is being promoted is eligible nowhere (S19).  Pure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pgtopology.document import Topology, TransitionKind
from pgtopology.epoch import NO_EPOCH, NO_REVISION, Epoch, Revision
from pgtopology.node import Address, Member, NodeName, NodeState, Role
from pgtopology.timing import DRAIN_MS


@dataclass(frozen=True, slots=True)
class Door:
    """An endpoint: a name, and the members it stands for."""

    name: str
    node: NodeName | None = None
    """The only member it stands for, wherever and whatever that is at the moment; None: see WRITER and READER."""

    WRITER: ClassVar[Door]
    """Whoever is the writer."""
    READER: ClassVar[Door]
    """Every replica that may be read from; the writer if there is none, where that is wanted."""
    POOLED_WRITER: ClassVar[Door]
    POOLED_READER: ClassVar[Door]
    """Where clients take turns at the servers of the other two."""

    def __str__(self) -> str:
        return self.name

    @property
    def is_pooled(self) -> bool:
        """Whether its clients take turns at servers."""
        return self in (Door.POOLED_WRITER, Door.POOLED_READER)

    @property
    def unpooled(self) -> Door:
        """The endpoint whose servers a pooled one has; any other's are its own."""
        return {Door.POOLED_WRITER: Door.WRITER, Door.POOLED_READER: Door.READER}.get(self, self)

    @property
    def pooled(self) -> Door:
        """The pooled endpoint that has its servers, if it may have one."""
        return {Door.WRITER: Door.POOLED_WRITER, Door.READER: Door.POOLED_READER}.get(self, self)

    @classmethod
    def of(cls, node: str) -> Door:
        """Return the instance endpoint of *node*."""
        return cls(node, NodeName(node))


Door.WRITER = Door("writer")
Door.READER = Door("reader")
Door.POOLED_WRITER = Door("pooled-writer")
Door.POOLED_READER = Door("pooled-reader")


@dataclass(frozen=True, slots=True)
class Backend:
    """A PostgreSQL server that may serve a session, and in which capacity."""

    node: NodeName
    address: Address
    is_writer: bool


DRAIN_S = DRAIN_MS / 1000
"""Unless the document says otherwise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """What the doors lead to, as of one document."""

    epoch: Epoch = NO_EPOCH
    revision: Revision = NO_REVISION
    writer: Backend | None = None
    readers: tuple[Backend, ...] = ()
    """Sorted by name."""
    promoted: NodeName | None = None
    """The writer, or while there is none the candidate: no place for sessions that were promised a replica."""
    others: tuple[Backend, ...] = ()
    """Members that are neither the writer nor a primary that somebody else may take for it: for instance endpoints."""
    members: frozenset[NodeName] = frozenset()
    is_planned: bool = False
    """The writer went away by an operator's wish: sessions may finish what they are doing."""
    drain_s: float = DRAIN_S
    """For how long."""


EMPTY = Table()
"""Before the first document."""


def make_table(topology: Topology) -> Table:
    """Return the table that *topology* asks for."""
    writer_member = topology.member(topology.writer) if topology.writer is not None else None
    promoted = topology.writer
    if promoted is None and topology.candidate is not None:
        promoted = topology.candidate.node
    readers = sorted(
        (member for member in topology.members if member.name != promoted and _may_be_read(member)),
        key=lambda member: member.name,
    )
    transition = topology.transition
    return Table(
        epoch=topology.epoch,
        revision=topology.revision,
        writer=Backend(writer_member.name, writer_member.address, True) if writer_member is not None else None,
        readers=tuple(Backend(member.name, member.address, False) for member in readers),
        promoted=promoted,
        others=tuple(
            Backend(member.name, member.address, False)
            for member in topology.members
            if member.name != promoted and member.role is not Role.PRIMARY
        ),
        members=frozenset(member.name for member in topology.members),
        is_planned=transition is not None and transition.kind is TransitionKind.SWITCHOVER,
        drain_s=transition.drain_ms / 1000 if transition is not None and transition.drain_ms is not None else DRAIN_S,
    )


def eligible(table: Table, door: Door, *, fallback_to_writer: bool) -> tuple[Backend, ...]:
    """Return whom *door* stands for now, best first in groups: a reader's door falls back to the writer if asked to."""
    writer = (table.writer,) if table.writer is not None else ()
    if door.node is not None:
        return tuple(backend for backend in (*writer, *table.others) if backend.node == door.node)
    if door == Door.WRITER:
        return writer
    return table.readers or (writer if fallback_to_writer else ())


def _may_be_read(member: Member) -> bool:
    return member.reader_eligible and member.role is Role.STANDBY and member.state is NodeState.STREAMING
