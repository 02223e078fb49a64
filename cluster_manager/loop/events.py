"""What may happen to the manager's loop. The time at which it does is given beside it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from cluster_manager.decision.actions import NodeAction
from cluster_manager.decision.nodeview import NEVER_MS
from cluster_manager.decision.request import Request
from cluster_manager.loop.orders import Outcome
from cluster_manager.loop.settings import LoopSettings
from cluster_manager.provision.provisioner import Answer
from pgtopology.desired_nodes import DesiredNode, DesiredNodes
from pgtopology.document import Topology
from pgtopology.epoch import NO_EPOCH, NO_REVISION, Epoch, Revision
from pgtopology.node import NodeName
from pgtopology.observation import Observation, Port


@dataclass(frozen=True, slots=True, kw_only=True)
class Outside:
    """What a decision depends on besides: the lease, and the proxies."""

    lease_until_ms: float = -NEVER_MS
    """Until when, on the manager's clock, nobody else can lead; in the past if this manager does not."""
    proxies_settled: bool = True
    """Whether no proxy can have a session of a writer earlier than the document's epoch."""
    proxies_seen: tuple[Epoch, Revision] = (NO_EPOCH, NO_REVISION)
    wall_time: str = ""
    """ISO 8601, for people."""
    wall_ms: int = 0
    """The same in milliseconds since 1970.  It only lets revisions grow beyond those of a history that the store has lost."""


# Time and the outside


@dataclass(frozen=True, slots=True)
class Woken:
    """Something changed that a decision may depend on: the lease was granted, or a proxy reported another epoch."""

    outside: Outside | None = None
    """How it is now, if that is known."""


@dataclass(frozen=True, slots=True)
class Turn:
    """It is the time that `Effects.wake_at_ms` named last."""

    outside: Outside


@dataclass(frozen=True, slots=True)
class Late:
    """This process itself heard nothing for so long, because it stood still: what was said meanwhile lies unread."""

    lag_ms: float


@dataclass(frozen=True, slots=True)
class Configured:
    """The settings were read anew."""

    settings: LoopSettings


# What nodes say


@dataclass(frozen=True, slots=True)
class Observed:
    """A noded tells how things stand there."""

    observation: Observation


@dataclass(frozen=True, slots=True)
class PortTried:
    """What the manager's own connection to a PostgreSQL met (`Loop.silent_writer` says whose)."""

    node: NodeName
    port: Port


@dataclass(frozen=True, slots=True)
class Answered:
    """How the order *number* ended. Late answers, to orders that were cancelled, count for nothing."""

    number: int
    outcome: Outcome


# The store's answers, one to each `Effects.store`


@dataclass(frozen=True, slots=True)
class Loaded:
    """The document was read; None if there has never been one."""

    document: Topology | None


@dataclass(frozen=True, slots=True)
class Written:
    """The document was written, durably."""


@dataclass(frozen=True, slots=True)
class Overtaken:
    """It was not written, because another manager wrote first."""


@dataclass(frozen=True, slots=True)
class StoreFailed:
    """The store did not answer. Whether a write was made is not known."""

    problem: str


# The same for the record of desired nodes, one to each `Effects.desired`


@dataclass(frozen=True, slots=True)
class DesiredLoaded:
    """The record was read; None if there is none."""

    record: DesiredNodes | None


@dataclass(frozen=True, slots=True)
class DesiredWritten:
    """The record was written, durably."""


@dataclass(frozen=True, slots=True)
class DesiredOvertaken:
    """It was not written, because another manager wrote first."""


@dataclass(frozen=True, slots=True)
class DesiredFailed:
    """The store did not answer. Whether a write was made is not known."""

    problem: str


DesiredAnswer = DesiredLoaded | DesiredWritten | DesiredOvertaken | DesiredFailed


@dataclass(frozen=True, slots=True)
class Provisioned:
    """What the provisioner said to the order *number*."""

    number: int
    answer: Answer


OfDesired = DesiredAnswer | Provisioned


# Operators: `Effects.refused` says why not


@dataclass(frozen=True, slots=True)
class Asked:
    """Another writer is wanted."""

    request: Request


@dataclass(frozen=True, slots=True)
class Withdrawn:
    """The request that was asked last, and has not begun, is wanted no more."""


@dataclass(frozen=True, slots=True)
class Edited:
    """*change* is to be applied to the document, between two decisions; it returns the same if nothing is left to do."""

    change: Callable[[Topology], Topology]
    because: str


@dataclass(frozen=True, slots=True)
class Ordered:
    """A node is to be given an order at once, whatever the pace."""

    action: NodeAction


@dataclass(frozen=True, slots=True)
class NodeWished:
    """The cluster is to have this node, or to have it no more."""

    node: DesiredNode


Operated = Asked | Withdrawn | Edited | Ordered | NodeWished

Event = (
    Woken
    | Turn
    | Late
    | Configured
    | Observed
    | PortTried
    | Answered
    | Loaded
    | Written
    | Overtaken
    | StoreFailed
    | OfDesired
    | Operated
)
