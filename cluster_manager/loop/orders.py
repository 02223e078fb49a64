"""What an order of each kind carries, for how long its answer is waited for, and how soon it may be given again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypedDict, assert_never

from cluster_manager.decision.actions import (
    ActionKind,
    AskPromise,
    Checkpoint,
    Clone,
    Configure,
    Follow,
    Init,
    NodeAction,
    Promote,
    PutInForce,
    Restart,
    Rewind,
    Stop,
)
from cluster_manager.decision.view import slots_of
from pgtopology.document import Topology
from pgtopology.epoch import Epoch, Revision
from pgtopology.node import NodeName
from pgtopology.orders import (
    Acknowledged,
    CheckpointOrder,
    CloneOrder,
    ConfigureOrder,
    FollowOrder,
    InitOrder,
    Order,
    PromiseAnswer,
    PromiseOrder,
    PromoteOrder,
    RewindOrder,
    StartOrder,
    StopOrder,
    SynchronousAnswer,
    SynchronousOrder,
)
from pgtopology.quorum import Voters
from pgtopology.timeline import TOLD_MAX, TimelineRecord

PACE_MS = {
    ActionKind.INIT: 2000.0,
    ActionKind.PROMISE: 50.0,
    ActionKind.FOLLOW: 300.0,
    ActionKind.PROMOTE: 200.0,
    ActionKind.CLONE: 2000.0,
    ActionKind.REWIND: 2000.0,
    ActionKind.STOP: 1000.0,
    ActionKind.RESTART: 1000.0,
    ActionKind.SYNCHRONOUS: 300.0,
    ActionKind.CONFIGURE: 1000.0,
    ActionKind.CHECKPOINT: 1000.0,
}
"""How soon after it ended an order of the same kind may go to the same node again."""

DEADLINE_S = {
    ActionKind.INIT: 5.0,
    ActionKind.PROMISE: 5.0,
    ActionKind.FOLLOW: 5.0,
    ActionKind.PROMOTE: 5.0,
    ActionKind.CLONE: 5.0,
    ActionKind.REWIND: 5.0,
    ActionKind.STOP: 30.0,
    ActionKind.RESTART: 60.0,
    ActionKind.SYNCHRONOUS: 8.0,
    ActionKind.CONFIGURE: 5.0,
    ActionKind.CHECKPOINT: 60.0,
}


@dataclass(frozen=True, slots=True)
class Failed:
    """An order that was not carried out, as far as is known."""

    code: str
    """The refusal's code; "unavailable" without an answer, "message" if it could not be read."""
    message: str
    is_refusal: bool = False
    """Whether the node said so."""


Outcome = Acknowledged | PromiseAnswer | SynchronousAnswer | Failed

ANSWERS: dict[ActionKind, type[Acknowledged] | type[PromiseAnswer] | type[SynchronousAnswer]] = dict.fromkeys(
    ActionKind, Acknowledged
) | {ActionKind.PROMISE: PromiseAnswer, ActionKind.SYNCHRONOUS: SynchronousAnswer}
"""What a noded answers when an order was carried out."""


def order_of(action: NodeAction, document: Topology) -> Order:
    """Return the order by which a noded is asked for *action*, which follows from *document*."""
    common = _common(action, document)
    match action:
        case Init():
            return InitOrder(**common)
        case AskPromise():
            return PromiseOrder(**common, stop_mode=action.stop_mode)
        case Follow():
            return FollowOrder(**common, upstream=action.upstream)
        case Promote():
            return PromoteOrder(**common, timeline=action.timeline)
        case Clone():
            return CloneOrder(**common, source=action.source, destroys=action.destroys, by_operator=action.by_operator)
        case Rewind():
            return RewindOrder(**common, source=action.source, destroys=action.destroys)
        case PutInForce():
            return SynchronousOrder(**common, in_force=action.voters)
        case Checkpoint():
            return CheckpointOrder(**common)
        case Stop():
            return StopOrder(**common)
        case Configure():
            return ConfigureOrder(**common, desired=document.desired)
        case Restart():
            return StartOrder(**common)
        case _:
            assert_never(action)


class _Common(TypedDict):
    """What all orders carry."""

    cluster: str
    node: NodeName
    system_identifier: str | None
    epoch: Epoch
    revision: Revision
    voters: Voters | None
    timelines: tuple[TimelineRecord, ...]
    slots: tuple[str, ...]
    deadline_ms: int


def _common(action: NodeAction, document: Topology) -> _Common:
    return {
        "cluster": document.cluster,
        "node": action.node,
        "system_identifier": document.system_identifier,
        "epoch": document.epoch,
        "revision": document.revision,
        "voters": document.voters,
        "timelines": document.timelines[-TOLD_MAX:],
        "slots": slots_of(document),
        "deadline_ms": int(DEADLINE_S[action.kind] * 1000),
    }
