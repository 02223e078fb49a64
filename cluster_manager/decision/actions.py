"""What a plan asks of the nodes and the store: the vocabulary of effects, without the effects.

Every action is idempotent, because its outcome is only ever learnt from a later observation or answer; the loop keeps at most
one of a kind per node under way.  Whatever an order must carry besides (epoch, revision, voters, slots) is taken from the
document the plan was made from (`cluster_manager.loop.orders`).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from pgtopology.document import Topology
from pgtopology.node import Incarnation, NodeName
from pgtopology.orders import StopMode, Upstream
from pgtopology.quorum import Voters
from pgtopology.timeline import Timeline


class ActionKind(StrEnum):
    """The orders a node may be given."""

    INIT = "init"
    PROMISE = "promise"
    FOLLOW = "follow"
    PROMOTE = "promote"
    CLONE = "clone"
    REWIND = "rewind"
    STOP = "stop"
    RESTART = "restart"
    SYNCHRONOUS = "settings"
    """Whose acknowledgements a commit waits for."""
    CONFIGURE = "configure"
    """The operator's settings of PostgreSQL."""
    CHECKPOINT = "checkpoint"


@dataclass(frozen=True, slots=True)
class WriteDocument:
    """Write the next revision. Alone in its plan: everything else waits for the outcome."""

    document: Topology
    because: str


@dataclass(frozen=True, slots=True)
class Init:
    """Make the first data directory of the cluster."""

    node: NodeName
    kind = ActionKind.INIT


@dataclass(frozen=True, slots=True)
class AskPromise:
    """Ask for a promise of the document's epoch."""

    node: NodeName
    stop_mode: StopMode = StopMode.IMMEDIATE
    kind = ActionKind.PROMISE


@dataclass(frozen=True, slots=True)
class Follow:
    """Stream from another node."""

    node: NodeName
    upstream: Upstream
    kind = ActionKind.FOLLOW


@dataclass(frozen=True, slots=True)
class Promote:
    """Become the primary of the document's epoch."""

    node: NodeName
    timeline: Timeline
    kind = ActionKind.PROMOTE


@dataclass(frozen=True, slots=True)
class Clone:
    """Make a node's data anew from the writer's."""

    node: NodeName
    source: Upstream
    destroys: Incarnation | None
    because: str
    by_operator: bool = False
    kind = ActionKind.CLONE


@dataclass(frozen=True, slots=True)
class Rewind:
    """Take a node's data back to where it left the writer's history."""

    node: NodeName
    source: Upstream
    destroys: Incarnation
    because: str
    kind = ActionKind.REWIND


@dataclass(frozen=True, slots=True)
class PutInForce:
    """Have the writer wait for another list of voters, and prove it."""

    node: NodeName
    voters: Voters
    kind = ActionKind.SYNCHRONOUS


@dataclass(frozen=True, slots=True)
class Configure:
    """Go by the document's settings of PostgreSQL."""

    node: NodeName
    kind = ActionKind.CONFIGURE


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Write dirty pages out now, so that a stop that follows is short."""

    node: NodeName
    kind = ActionKind.CHECKPOINT


@dataclass(frozen=True, slots=True)
class Stop:
    """Stop a standby's PostgreSQL, because an operator wants it down."""

    node: NodeName
    kind = ActionKind.STOP


@dataclass(frozen=True, slots=True)
class Restart:
    """Stop and start a standby's PostgreSQL."""

    node: NodeName
    kind = ActionKind.RESTART


NodeAction = Configure | Checkpoint | Stop | Restart | Init | AskPromise | Follow | Promote | Clone | Rewind | PutInForce
Action = WriteDocument | NodeAction


def describe(action: Action) -> str:
    """Return *action* in a few words: what is to be written, or which order goes to whom."""
    if isinstance(action, WriteDocument):
        return f"write revision {action.document.revision}"
    return f"{action.kind} {action.node}"
