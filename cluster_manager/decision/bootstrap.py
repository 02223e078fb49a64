"""Making a cluster where there is none: only on explicit order, and never over data that exists (S12).

The first node's data is made by initdb and started as a standby like any other; its first primary is made by a promotion under
epoch 1, so that there is one way to become a writer and not two (S18).
"""

from __future__ import annotations

import msgspec

from cluster_manager.decision.actions import Action, Init, WriteDocument
from cluster_manager.decision.diagnose import Diagnosis, Finding
from cluster_manager.decision.nodeview import is_fresh
from cluster_manager.decision.view import View
from pgtopology.document import Durability, Step, Topology, Transition, TransitionKind
from pgtopology.epoch import Epoch, Revision
from pgtopology.node import Member
from pgtopology.observation import Activity
from pgtopology.quorum import Voters


def bring_about(view: View) -> tuple[Finding, tuple[Action, ...]]:
    """Return what to do while there are no voters: nobody has data yet, or there is no document at all."""
    return initialise(view, view.document) if view.document is not None else found(view)


def found(view: View) -> tuple[Finding, tuple[Action, ...]]:
    """Return what to do while there is no document at all."""
    if not view.bootstrap_ordered:
        return Finding(Diagnosis.NO_CLUSTER, "the store is empty, and no order was given to make a new cluster"), ()
    unheard = [node.name for node in view.nodes if not is_fresh(node, view.timings)]
    if unheard:
        return Finding(Diagnosis.NO_CLUSTER, f"waiting to hear from {', '.join(unheard)}: it may have data"), ()
    holding = [node.name for node in view.nodes if node.observation is not None and node.observation.system_identifier]
    if holding:
        return (
            Finding(Diagnosis.NO_CLUSTER, f"the store is empty, but {', '.join(holding)} has data; nothing is made over it"),
            (),
        )
    first = view.specs[0].name
    document = Topology(
        cluster=view.cluster,
        revision=Revision(1),
        epoch=Epoch(1),
        durability=Durability.ASYNC,
        voters=None,
        members=tuple(
            Member(name=s.name, zone=s.zone, address=s.address, noded=s.noded, dns=s.dns, tier=s.tier) for s in view.specs
        ),
        endpoints=view.endpoints,
        transition=Transition(
            kind=TransitionKind.BOOTSTRAP,
            step=Step.INITIALISING,
            cause="bootstrap",
            target=first,
            first_epoch=Epoch(1),
            started_at=view.wall_time,
        ),
    )
    return Finding(Diagnosis.BOOTSTRAPPING, f'a new cluster begins on "{first}"'), (
        WriteDocument(document, f'a new cluster begins on "{first}"'),
    )


def initialise(view: View, document: Topology) -> tuple[Finding, tuple[Action, ...]]:
    """Return what to do until the first node has data and runs as a standby: then it is the only voter."""
    transition = document.transition
    first = transition.target if transition is not None else None
    node = view.node(first)
    if node is None or transition is None:
        return Finding(Diagnosis.BOOTSTRAPPING, f'the first node "{first}" is gone from the settings'), ()
    observation = node.observation
    voter = node.voter()
    if observation is None or not is_fresh(node, view.timings):
        return Finding(Diagnosis.BOOTSTRAPPING, f'waiting to hear from "{node.name}"'), ()
    # Whether its PostgreSQL runs does not matter here: the promise that is asked next starts it.
    if voter is None or observation.system_identifier is None or observation.activity is not Activity.IDLE:
        trouble = f" ({observation.problem})" if observation.problem is not None else ""
        return Finding(Diagnosis.BOOTSTRAPPING, f'"{node.name}" makes its data directory{trouble}'), (Init(node.name),)
    members = tuple(
        msgspec.structs.replace(member, incarnation=voter.incarnation) if member.name == node.name else member
        for member in document.members
    )
    made = msgspec.structs.replace(
        document,
        revision=Revision(document.revision + 1),
        system_identifier=observation.system_identifier,
        voters=Voters((voter,), 1),
        members=members,
        transition=msgspec.structs.replace(transition, step=Step.RECRUITING),
    )
    return Finding(Diagnosis.BOOTSTRAPPING, f'"{node.name}" has data'), (WriteDocument(made, f'"{node.name}" has data'),)
