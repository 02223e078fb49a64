"""The entries of a flight record: what passed through the manager, in the words that the record keeps, and the bounded lists.

Pure: values of the decision in, values of `pgtopology.flight` out.  When something is worth an entry is the recorder's
business (`flight_recorder`).
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import msgspec

from cluster_manager.decision.actions import describe
from cluster_manager.decision.elect import Elected, Tally
from cluster_manager.decision.nodeview import NodeView
from cluster_manager.decision.plan import Plan
from cluster_manager.decision.view import Promise
from pgtopology.document import Topology
from pgtopology.flight import Election, Flight, NodeSnapshot, OrderTold, PlanChange, PromiseTold, Snapshot, VoteTold, WriteTold
from pgtopology.lsn import format_lsn
from pgtopology.node import NodeName
from pgtopology.quorum import Voters
from pgtopology.timeline import Epoch

ENTRIES_MAX = 400
"""Of each list in a record: a failover has some dozen of each, a stuck one may have many."""


class Entries:
    """The lists of a record while it is being made. One that is full loses its middle: how it began and how it ended stay."""

    NAMES = ("snapshots", "plans", "promises", "elections", "orders", "writes")

    def __init__(self, numbers: Iterator[int], before: Flight | None = None) -> None:
        self._numbers = numbers
        self._lists: dict[str, dict[int, msgspec.Struct]] = {
            name: {next(numbers): entry for entry in getattr(before, name)} if before is not None else {} for name in self.NAMES
        }
        self._left_out = before.left_out if before is not None else 0

    def add(self, name: str, entry: msgspec.Struct) -> int:
        """Append *entry* and return its number, which no other entry of this recorder has."""
        entries = self._lists[name]
        if len(entries) >= ENTRIES_MAX:
            del entries[next(islice(entries, ENTRIES_MAX // 2, None))]
            self._left_out += 1
        number = next(self._numbers)
        entries[number] = entry
        return number

    def order(self, number: int) -> OrderTold | None:
        """Return the order called *number*, if it is in this record."""
        entry = self._lists["orders"].get(number)
        return entry if isinstance(entry, OrderTold) else None

    def replace_order(self, number: int, order: OrderTold) -> None:
        """Put *order* in the place of *number*."""
        self._lists["orders"][number] = order

    def last_ms(self) -> float:
        """Return the greatest time in the lists."""
        times = (getattr(entry, "at_ms", 0.0) for entries in self._lists.values() for entry in entries.values())
        return max(times, default=0.0)

    def as_fields(self) -> dict[str, object]:
        """Return the lists as fields of a record."""
        return {**{name: tuple(entries.values()) for name, entries in self._lists.items()}, "left_out": self._left_out}


def plan_change(plan: Plan, at_ms: float) -> PlanChange:
    """Tell what was decided, and why."""
    return PlanChange(
        at_ms=at_ms,
        diagnosis=str(plan.diagnosis),
        reason=plan.reason,
        actions=tuple(describe(one) for one in plan.actions),
    )


def write_told(document: Topology, because: str, outcome: str, *, at_ms: float, took_ms: float) -> WriteTold:
    """Tell of a write of *document*, done or not."""
    return WriteTold(
        at_ms=at_ms,
        took_ms=round(took_ms, 2),
        revision=document.revision,
        epoch=document.epoch,
        writer=document.writer,
        candidate=document.candidate.node if document.candidate is not None else None,
        because=because,
        outcome=outcome,
    )


def promise_told(name: NodeName, promise: Promise, at_ms: float) -> PromiseTold:
    """Tell of the answer of *name*."""
    answer, position = promise.answer, promise.answer.position
    return PromiseTold(
        at_ms=at_ms,
        node=name,
        promised=answer.promised,
        incarnation=answer.incarnation,
        whole=answer.whole,
        timeline=position.timeline if position is not None else None,
        lsn=format_lsn(position.lsn) if position is not None else None,
        replayed=format_lsn(position.replayed_lsn) if position is not None else None,
        unknown_because=answer.unknown_because,
        was_primary=answer.was_primary,
    )


def election_told(epoch: Epoch, voters: Voters, votes: Tally, elected: Elected, at_ms: float) -> Election:
    """Tell the arithmetic of the safe set: who counted and why, who was passed over and why, and who was elected."""
    counted = {one.voter.name: one for one in votes.counted}
    return Election(
        at_ms=at_ms,
        epoch=epoch,
        n=len(voters.members),
        w=voters.w,
        needed=voters.safe_set_size,
        counted=len(votes.counted),
        votes=tuple(
            VoteTold(
                node=voter.name,
                counts=voter.name in counted,
                why=f"the recorded data {voter.incarnation}, whole, at "
                f"{format_lsn(counted[voter.name].position.lsn)} of epoch {counted[voter.name].position.epoch}"
                if voter.name in counted
                else votes.passed_over.get(voter.name, ""),
            )
            for voter in voters.members
        ),
        elected=elected.node,
        because=elected.because,
        passed_over=dict(elected.passed_over),
    )


def snapshot(step: str, nodes: tuple[NodeView, ...], at_ms: float) -> Snapshot:
    """Tell what was known of each node at *step*."""
    return Snapshot(step=step, at_ms=at_ms, nodes=tuple(_node(node) for node in nodes))


def _node(node: NodeView) -> NodeSnapshot:
    observation = node.observation
    if observation is None:
        return NodeSnapshot(node=node.name, age_ms=None, port=str(node.port))
    receiver, heartbeat = observation.receiver, observation.heartbeat
    return NodeSnapshot(
        node=node.name,
        age_ms=_finite(node.age_ms),
        port=str(node.port),
        role=str(observation.role),
        postmaster=str(observation.postmaster.state),
        unexpected_exit=observation.postmaster.unexpected_exit,
        deaf_ms=observation.postmaster.deaf_ms,
        timeline=observation.timeline,
        wal_end=format_lsn(observation.wal_end) if observation.wal_end is not None else None,
        replayed=format_lsn(observation.replayed_lsn) if observation.replayed_lsn is not None else None,
        wal_advanced_age_ms=_finite(node.wal_advanced_age_ms),
        receiver_running=receiver.running if receiver is not None else None,
        receiver_streaming=receiver.streaming if receiver is not None else None,
        upstream=receiver.upstream if receiver is not None else None,
        heartbeat_acknowledged_age_ms=heartbeat.acknowledged_age_ms if heartbeat is not None else None,
        heartbeat_pending_ms=heartbeat.pending_ms if heartbeat is not None else None,
        heartbeat_error=heartbeat.error if heartbeat is not None else None,
        promised=observation.promised,
        whole=observation.whole,
    )


def _finite(age_ms: float) -> float | None:
    return round(age_ms, 1) if age_ms != float("inf") else None
