"""What is due about the nodes the cluster is to have: the record of desired nodes against what there is.

    wanted   not named in the settings yet    provision, until it is made; then wait to be named, and provision again
             named for the first time         note that, so that the order to add it is finished
             named no more                    forget it: who writes the settings took it out
    leaving  a member                         retire: mark it in the document, which makes it no voter step by step (L11, L12)
             a member that may not leave now  keep it, and say why
             marked, or no member any more    delete: have the provisioner lead it out, until nothing is left of it
             nothing left of it               forget it
    (none)   named in the settings            adopt it

Nothing here remembers how far an order is: each row looks at the record, the settings and the document, and every step may be
taken again.  So a manager that takes over at any moment goes on.  That a node becomes a voter is `voter_changes`, that it gets
its data `repair`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from cluster_manager.decision.leaving import NO_WRITER, why_needed
from cluster_manager.decision.tries import Desired, Tries
from cluster_manager.decision.view import View
from cluster_manager.provision.provisioner import ByOthers, Gone, Made
from pgtopology.desired_nodes import DesiredNode, Wish


class StepKind(StrEnum):
    """What is done about a node, or waited for."""

    ADOPT = "adopt"
    """Write it into the record as one that is there."""
    PROVISION = "provision"
    """Order it of the provisioner."""
    REGISTER = "register"
    """It is made; the settings are to name it."""
    SETTLE = "settle"
    """Note that they do."""
    RETIRE = "retire"
    """Mark in the document that it leaves."""
    KEEP = "keep"
    """It may not leave: the order ends."""
    DELETE = "delete"
    """Have the provisioner stop its programs and put away what is left of it."""
    FORGET = "forget"
    """Take it out of the record: done."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Actual:
    """What there is of one node."""

    is_configured: bool = False
    """Whether the settings name it."""
    is_member: bool = False
    """Whether the document has it."""
    is_marked: bool = False
    """Whether the document says that it leaves."""
    why_stays: str | None = None
    """Why it may not leave, or None."""
    has_writer: bool = True
    """Whether there is a writer, without whom no voter changes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What is due about one node."""

    node: DesiredNode
    kind: StepKind
    waits_for: str | None = None
    """What it waits for, or None if it is to be taken now."""
    tries: Tries = field(default_factory=Tries)


def steps(view: View) -> tuple[Step, ...]:
    """Return what is due about every node for which anything is; nothing before the record was read."""
    if view.desired is None:
        return ()
    known = {one.node.name for one in view.desired}
    adopted = tuple(
        Step(node=DesiredNode(name=spec.name, zone=spec.zone, registered=True), kind=StepKind.ADOPT)
        for spec in view.specs
        if spec.name not in known
    )
    due = (step_of(one, actual_of(view, one.node.name), view.now_ms) for one in view.desired)
    return (*adopted, *(step for step in due if step is not None))


def actual_of(view: View, name: str) -> Actual:
    """Return what there is of the node *name*."""
    document = view.document
    member = document.member(name) if document is not None else None
    return Actual(
        is_configured=any(spec.name == name for spec in view.specs),
        is_member=member is not None,
        is_marked=member is not None and member.leaving,
        why_stays=why_needed(document, name) if document is not None else None,
        has_writer=document is not None and document.writer is not None,
    )


def step_of(one: Desired, actual: Actual, now_ms: float) -> Step | None:
    """Return what is due about the node, or None if it is as it is to be."""
    if one.node.wish is Wish.LEAVING:
        kind, waits_for = _leaving(one, actual, now_ms)
    elif not actual.is_configured:
        kind, waits_for = _coming(one, now_ms)
    elif not one.node.registered:
        kind, waits_for = StepKind.SETTLE, None
    else:
        return None
    return Step(node=one.node, kind=kind, waits_for=waits_for, tries=one.tries)


def _coming(one: Desired, now_ms: float) -> tuple[StepKind, str | None]:
    if one.node.registered or isinstance(one.tries.answer, ByOthers):
        return StepKind.FORGET, None
    waits_for = _until_asked(one.tries, now_ms)
    if waits_for is not None and isinstance(one.tries.answer, Made):
        return StepKind.REGISTER, "it is made and is to be named in the manager's settings"
    return StepKind.PROVISION, waits_for


def _leaving(one: Desired, actual: Actual, now_ms: float) -> tuple[StepKind, str | None]:
    if actual.is_member and not actual.is_marked:
        if not actual.has_writer:
            return StepKind.RETIRE, NO_WRITER
        return (StepKind.KEEP, actual.why_stays) if actual.why_stays is not None else (StepKind.RETIRE, None)
    if actual.is_configured and not actual.is_member:
        return StepKind.RETIRE, "it is named in the manager's settings and not in the document yet"
    answer = one.tries.answer
    if isinstance(answer, Gone | ByOthers) and not actual.is_configured:
        return StepKind.FORGET, None
    if isinstance(answer, ByOthers):
        return StepKind.DELETE, answer.reason
    return StepKind.DELETE, _until_asked(one.tries, now_ms)


def _until_asked(tries: Tries, now_ms: float) -> str | None:
    """Return what is waited for before the provisioner is asked, or None if it is to be asked now."""
    if tries.is_asked:
        return "the provisioner is asked"
    if now_ms >= tries.next_at_ms:
        return None
    return tries.reason or "the provisioner is at it"
