"""The switches that break a manager: wrappers around what goes into the real decision and what comes out of it."""

from __future__ import annotations

import dataclasses

import msgspec

from cluster_manager.decision.actions import PutInForce, WriteDocument
from cluster_manager.decision.elect import Counted, tally
from cluster_manager.decision.plan import Plan
from cluster_manager.decision.view import NodeView, View
from pgtopology.document import Candidate, Durability, Step, Topology
from pgtopology.epoch import Revision
from pgtopology.observation import Seen
from pgtopology.timeline import Timeline, TimelineRecord
from tests.sim.switches import Switch


def break_view(view: View, broken: Switch) -> View:
    """Return what a manager sees that does not look at what nodes have seen, or at who knows of the voters."""
    if broken is Switch.RECORD_UNKNOWN and view.document is not None:
        return dataclasses.replace(view, nodes=tuple(_knowing(node, view.document) for node in view.nodes))
    if broken is not Switch.STORE_ROLLED_BACK or view.document is None:
        return view
    epoch, revision = view.document.epoch, view.document.revision
    nothing_newer = Seen(epoch=epoch, revision=revision, voters=view.document.voters, timelines=view.document.timelines)
    nodes = tuple(
        node
        if node.observation is None
        else dataclasses.replace(
            node,
            observation=msgspec.structs.replace(
                node.observation, seen=nothing_newer, promised=min(node.observation.promised, epoch)
            ),
        )
        for node in view.nodes
    )
    return dataclasses.replace(view, nodes=nodes, proxies_seen=(epoch, revision))


def _knowing(node: NodeView, document: Topology) -> NodeView:
    observation = node.observation
    if observation is None:
        return node
    seen = msgspec.structs.replace(observation.seen, voters=document.voters)
    return dataclasses.replace(node, observation=msgspec.structs.replace(observation, seen=seen))


def break_plan(view: View, plan: Plan, broken: Switch) -> Plan:
    """Return what a manager plans that leaves one rule out."""
    document = view.document
    if document is None or len(plan.actions) != 1:
        return plan if broken is not Switch.RECORD_FIRST or document is None else _record_first(document, plan)
    action = plan.actions[0]
    if broken is Switch.RECORD_FIRST:
        return _record_first(document, plan)
    if not isinstance(action, WriteDocument):
        return plan
    new = action.document
    claims = new.candidate is not None and document.candidate is None
    changed: Topology | None = None
    if broken is Switch.TIMELINE_REUSE and claims:
        changed = _reuse_timeline(new)
    elif broken is Switch.LSN_BEFORE_EPOCH and claims:
        changed = _greatest_lsn(view, document, new)
    elif (
        broken is Switch.SECOND_CANDIDATE
        and document.transition is not None
        and document.transition.step is Step.PROMOTING
        and new.epoch > document.epoch
    ):
        changed = msgspec.structs.replace(new, epoch=document.epoch)
    if changed is None:
        return plan
    return dataclasses.replace(plan, actions=(WriteDocument(changed, action.because + " (broken)"),))


def _record_first(document: Topology, plan: Plan) -> Plan:
    for action in plan.actions:
        if isinstance(action, PutInForce) and document.voters is not None and action.voters.w > document.voters.w:
            written = msgspec.structs.replace(
                document, revision=Revision(document.revision + 1), voters=action.voters, durability=Durability.QUORUM
            )
            return dataclasses.replace(plan, actions=(WriteDocument(written, "recorded first (broken)"),))
    return plan


def _reuse_timeline(new: Topology) -> Topology:
    claimed = new.timelines[-1]
    timeline = Timeline(claimed.parent + 1)
    record = msgspec.structs.replace(claimed, timeline=timeline)
    assert new.candidate is not None
    others = tuple(one for one in new.timelines[:-1] if one.timeline != timeline)
    return msgspec.structs.replace(new, timelines=(*others, record), candidate=Candidate(new.candidate.node, timeline))


def _greatest_lsn(view: View, document: Topology, new: Topology) -> Topology | None:
    votes = tally(document, view.promises).counted
    if not votes or new.candidate is None or new.candidate.timeline is None:
        return None

    def reach(one: Counted) -> tuple[int, int, str]:
        return one.position.lsn, one.position.epoch, one.voter.name

    winner = max(votes, key=reach)
    record = TimelineRecord(
        timeline=new.candidate.timeline,
        epoch=new.epoch,
        node=winner.voter.name,
        parent=winner.position.timeline,
        fork_lsn=winner.position.lsn,
    )
    return msgspec.structs.replace(
        new,
        candidate=Candidate(winner.voter.name, new.candidate.timeline),
        timelines=(*new.timelines[:-1], record),
    )
