"""What stands beside a writer that leads on: the rest of the cluster, kept in order whatever little is the matter with it.

Each asker looks at one concern and proposes something or nothing.  They are asked in the order of `ASKERS`; their orders go out
together, a write goes alone, and whoever is asked first and finds something names the plan.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from cluster_manager.decision import configuring, voter_changes
from cluster_manager.decision.actions import Action, Checkpoint, Clone, Rewind, WriteDocument
from cluster_manager.decision.attempt import next_document
from cluster_manager.decision.diagnose import Diagnosis, Finding
from cluster_manager.decision.observed_members import refreshed
from cluster_manager.decision.repair import Repair, bearable, repairs
from cluster_manager.decision.situation import Situation

MEMBERS_CHANGED = "the members changed"
"""The reason of a write that only notes down what was observed of the nodes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """What one concern calls for."""

    finding: Finding | None = None
    """What is the case, if the plan is to be named by it."""
    write: WriteDocument | None = None
    """Goes alone: what follows from a document is decided after it was written."""
    orders: tuple[Action, ...] = ()
    repairs: tuple[Repair, ...] = ()
    """What is wrong with which node, for people."""


Asker = Callable[[Situation, Finding], Proposal | None]
"""Given the situation and what is the matter with the writer, returns what one concern calls for."""


def beside_the_writer(situation: Situation, writer: Finding) -> Proposal:
    """Return what all of `ASKERS` call for together; *writer* is what is the matter with the writer, HEALTHY if nothing is."""
    finding: Finding | None = None
    orders: tuple[Action, ...] = ()
    found: tuple[Repair, ...] = ()
    for ask in ASKERS:
        proposal = ask(situation, writer)
        if proposal is None:
            continue
        found = found or proposal.repairs
        if proposal.write is not None:
            return Proposal(finding=proposal.finding or finding or writer, write=proposal.write, repairs=found)
        finding = finding or proposal.finding
        orders += proposal.orders
    return Proposal(finding=finding or writer, orders=orders, repairs=found)


def mend_nodes(situation: Situation, writer: Finding) -> Proposal | None:
    """Bring every other node to the writer (F7).

    While commits are stuck too a node may be made anew, for that may be just what they wait for; while more is the matter with
    the writer nothing is destroyed.
    """
    found = repairs(situation)
    if not found:
        return None
    calm = _is_calm(writer)
    trusted = calm or writer.diagnosis is Diagnosis.COMMIT_STUCK
    wanted = [one.action for one in found if one.action is not None and (trusted or not _destroys(one.action))]
    finding = Finding(found[0].diagnosis, "; ".join(one.reason for one in found)) if calm else None
    return Proposal(finding=finding, orders=bearable(situation, wanted), repairs=found)


def note_members(situation: Situation, _: Finding) -> Proposal | None:
    """Write down what others act on and was observed of the nodes."""
    current = refreshed(situation)
    if current == situation.document:
        return None
    return Proposal(write=WriteDocument(next_document(current), MEMBERS_CHANGED))


def tell_settings(situation: Situation, _: Finding) -> Proposal | None:
    """Tell nodes of the operator's settings, and whose slots to keep."""
    orders = configuring.untold(situation)
    return Proposal(orders=orders) if orders else None


def checkpoint_once(situation: Situation, writer: Finding) -> Proposal | None:
    """Have a new writer write a checkpoint.

    A promotion leaves the old timeline in the control file until the next one, minutes later; a writer that dies before it
    could not be rewound afterwards.
    """
    if not _is_calm(writer) or situation.view.checkpointed_at_ms is not None or situation.writer is None:
        return None
    return Proposal(orders=(Checkpoint(situation.writer.name),))


def change_voters(situation: Situation, writer: Finding) -> Proposal | None:
    """Take the voters one step further, or back to the record if commits are stuck (S9)."""
    stuck = writer.diagnosis is Diagnosis.COMMIT_STUCK
    if not stuck and not _is_calm(writer):
        return None
    step = voter_changes.unstick(situation) if stuck else voter_changes.next_step(situation)
    if step is None:
        return None
    what, action = step
    reason = f"{writer.reason}; {what}" if stuck else what
    finding = Finding(writer.diagnosis if stuck else Diagnosis.VOTERS_CHANGING, reason)
    if isinstance(action, WriteDocument):
        return Proposal(finding=finding, write=action)
    return Proposal(finding=finding, orders=(action,) if action is not None else ())


def name_the_missing(situation: Situation, writer: Finding) -> Proposal | None:
    """Say which voter answers and could not promise; one that is merely late says nothing new."""
    told = [f'voter "{name}" {why}' for name, why in situation.missing.items() if name in situation.fresh]
    if not told or not _is_calm(writer):
        return None
    return Proposal(finding=Finding(Diagnosis.REPLICA_MISSING, "; ".join(told)))


def say_paused(situation: Situation, writer: Finding) -> Proposal | None:
    """Say that nothing would happen by itself, where nothing else is to be said."""
    if not situation.document.paused or not _is_calm(writer):
        return None
    return Proposal(finding=Finding(Diagnosis.PAUSED, f"{writer.reason}; automatic failover is paused"))


ASKERS: tuple[Asker, ...] = (
    mend_nodes,
    note_members,
    tell_settings,
    checkpoint_once,
    change_voters,
    name_the_missing,
    say_paused,
)
"""The concerns, in the order in which they are asked and in which they name the plan."""


def _is_calm(writer: Finding) -> bool:
    return writer.diagnosis is Diagnosis.HEALTHY


def _destroys(action: Action) -> bool:
    return isinstance(action, Rewind) or (isinstance(action, Clone) and action.destroys is not None)
