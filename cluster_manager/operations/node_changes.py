"""What operators order about the number of nodes: one more, or one less.

Refusals are the provisioner's and the document's; the mark that a node leaves stands in the document before anybody stops it.
Each order may be given again at any time, and goes on where the former one was interrupted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import assert_never

from cluster_manager.not_done import ByOthers as ForOthers
from cluster_manager.not_done import Refused, Unavailable
from cluster_manager.operations.node_orders import carry_out
from cluster_manager.provision.provisioner import ByOthers, Declined, Leads, Made, Provisioner, Unheard
from cluster_manager.shell.reconciler import Reconciler
from pgtopology.supervision import PlannedNode


@dataclass(frozen=True, slots=True)
class TakenOut:
    """What was done about a node that leaves."""

    text: str
    by_others: bool
    """Whether its programs are for others to stop."""


async def add_node(provisioner: Provisioner, name: str | None, zone: str | None) -> PlannedNode:
    """Have the node *name*, or the first that is free, made and return it. Raises NotDone."""
    made = await provisioner.make(name, zone)
    if isinstance(made, Made):
        return made.node
    raise _not_done(made)


async def take_out(reconciler: Reconciler, provisioner: Provisioner, name: str, *, purge: bool) -> TakenOut:
    """Have the node *name* leave the cluster and its programs stop. Raises NotDone."""
    document = reconciler.document
    member = document.member(name) if document is not None else None
    # One that leaves, or has left, was ordered to before; its programs may be there still.
    if document is None or (member is not None and not member.leaving):
        await carry_out(reconciler, name, "remove", force=False)
    led = await provisioner.lead_out(name, purge=purge)
    match led:
        case Leads():
            return TakenOut(f'"{name}" leaves the cluster', by_others=False)
        case ByOthers(reason):
            return TakenOut(f'"{name}" leaves the cluster; {reason}', by_others=True)
        case _:
            raise _not_done(led)


def _not_done(answer: Declined | ByOthers | Unheard) -> Refused | Unavailable:
    match answer:
        case Declined(reason):
            return Refused(reason)
        case ByOthers(reason):
            return ForOthers(reason)
        case Unheard(reason):
            return Unavailable(reason)
        case _:
            assert_never(answer)
