"""The topology document: the one thing the manager writes and everyone else follows.

Frozen values.  Its succession rules stand in succession.py; the settings a program was started with are not in it.  A
field on which a refusal depends (epoch, revision, incarnation, voters, w) never changes meaning without a new
format_version; unknown fields are ignored, so that version N and N - 1 work together.
"""

from __future__ import annotations

from collections.abc import Collection
from enum import StrEnum

import msgspec

from pgtopology.desired import DesiredSettings
from pgtopology.epoch import NO_REVISION, Epoch, Revision
from pgtopology.node import Member, NodeName
from pgtopology.quorum import Voter, Voters
from pgtopology.timeline import Timeline, TimelineRecord

FORMAT_VERSION = 1


class Durability(StrEnum):
    """What an acknowledged commit has survived."""

    QUORUM = "quorum"
    """It is on w voters; failover loses none and happens by itself."""
    ASYNC = "async"
    """It is on the writer. Failover happens by itself only when the old primary is known to have stopped."""
    REDUCED = "reduced"
    """An operator gave up voters (--allow-data-loss); it is on w of the voters that are left."""


class TransitionKind(StrEnum):
    """Why there is no writer just now."""

    BOOTSTRAP = "bootstrap"
    FAILOVER = "failover"
    SWITCHOVER = "switchover"


class Step(StrEnum):
    """Where an unfinished transition stands: what must survive a manager's crash."""

    INITIALISING = "initialising"
    """Bootstrap only: the first node is making its data directory."""
    RECRUITING = "recruiting"
    """Promises of this epoch are being gathered; no candidate."""
    PROMOTING = "promoting"
    """The candidate and its timeline are claimed; followers are repointed, it is promoted and proven."""


class Candidate(msgspec.Struct, frozen=True):
    """The only node that may become the writer of this epoch, and the only timeline it may do so on."""

    node: NodeName
    timeline: Timeline | None = None


class Adopted(msgspec.Struct, frozen=True, kw_only=True):
    """What a document goes back to that was made anew, because the store was behind what nodes had seen (S12)."""

    epoch: Epoch
    revision: Revision
    """Of the newest document that anybody had seen."""
    timeline: Timeline
    """No greater number can have been claimed by a document that is lost."""


class Transition(msgspec.Struct, frozen=True, kw_only=True):
    """The unfinished business of this epoch."""

    kind: TransitionKind
    step: Step
    cause: str
    """The diagnosis that started it, for people."""
    from_node: NodeName | None = None
    """The writer that was given up; its rejoin is repair, not part of the transition."""
    target: NodeName | None = None
    """Whom the operator asked for."""
    avoid_old: bool = False
    """An operator wants the writer elsewhere: elect the old primary only if no safe set remains without it."""
    drain_ms: int | None = None
    """How long a planned handover lets sessions finish what they are doing; None: as long as usual."""
    first_epoch: Epoch
    """The epoch in which this failure was found: one failure that needs several attempts keeps it."""
    started_at: str
    """Wall time, ISO 8601, for people only."""
    adopts: Adopted | None = None
    """Set if there is no writer because the document had to be made anew."""


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """What clients connect to."""

    host: str
    port: int
    dns: str


class Endpoints(msgspec.Struct, frozen=True, kw_only=True):
    """The two doors of the cluster."""

    writer: Endpoint
    reader: Endpoint


class Topology(msgspec.Struct, frozen=True, kw_only=True):
    """The document."""

    format_version: int = FORMAT_VERSION
    cluster: str
    system_identifier: str | None = None
    """PostgreSQL's, as text because it exceeds what JSON numbers carry; None until the first node has data."""
    revision: Revision
    epoch: Epoch
    durability: Durability
    voters: Voters | None
    """None only before the first node was made."""
    former_voters: Voters | None = None
    """Those before the last change, until so many of them know of it that it cannot be lost with the store."""
    voters_since: Revision = NO_REVISION
    """The revision that recorded `voters`: who has seen only equal ones of an earlier time does not know of the last change."""
    writer: NodeName | None = None
    candidate: Candidate | None = None
    timelines: tuple[TimelineRecord, ...] = ()
    members: tuple[Member, ...] = ()
    endpoints: Endpoints
    transition: Transition | None = None
    paused: bool = False
    desired: DesiredSettings = DesiredSettings()
    """What the operator wants of every server."""

    @property
    def waits_for_copies(self) -> bool:
        """Whether commits wait for copies at all."""
        return self.durability is not Durability.ASYNC

    @property
    def promises_commits(self) -> bool:
        """Whether acknowledged commits survive, and no client may go without."""
        return self.waits_for_copies and not self.desired.relaxed_commits

    def member(self, name: str) -> Member | None:
        """Return the member called *name*, or None."""
        return next((member for member in self.members if member.name == name), None)

    def is_safe_set(self, promised: Collection[Voter]) -> bool:
        """Return whether another writer may be elected among *promised*: they are a safe set of the voters.

        While a change of the voters is not known widely they must also make it known, or it could be lost although it was used.
        """
        if self.voters is None or not self.voters.is_safe_set(promised):
            return False
        return self.former_voters is None or self.former_voters.make_known(promised, self.voters)
