"""The switches that break a manager: wrappers around what goes into the real decision and what comes out of it."""

from __future__ import annotations

import dataclasses

import msgspec

from cluster_manager.decision import plan as plans
from cluster_manager.decision import refusal as refusals
from cluster_manager.decision import transition
from cluster_manager.decision.actions import Follow, PutInForce, WriteDocument
from cluster_manager.decision.diagnose import Diagnosis
from cluster_manager.decision.elect import Counted, tally
from cluster_manager.decision.nodeview import NodeView
from cluster_manager.decision.plan import Plan
from cluster_manager.decision.request import Request, RequestKind
from cluster_manager.decision.situation import survey, survivors
from cluster_manager.decision.view import View
from cluster_manager.loop.rules import Rules
from pgtopology.document import Candidate, Durability, Step, Topology, TransitionKind
from pgtopology.epoch import Revision
from pgtopology.node import Role
from pgtopology.observation import Seen
from pgtopology.timeline import Timeline, TimelineRecord
from tests.sim.checks import gives_up
from tests.sim.switches import Switch


def broken_rules(broken: Switch | None) -> Rules:
    """Return the functions that a manager goes by which leaves one rule out."""
    if broken is None:
        return Rules()

    def decide(view: View) -> Plan:
        seen = break_view(view, broken)
        return break_plan(seen, plans.decide(seen), broken)

    def refusal(view: View, request: Request) -> str | None:
        needless = broken is Switch.NEEDLESS_LOSS and request.kind is RequestKind.DATA_LOSS
        return None if needless else refusals.refusal(view, request)

    return Rules(decide, refusal, may_follow=lambda _old, _new: None)


def break_view(view: View, broken: Switch) -> View:
    """Return what a manager sees that does not look at what nodes have seen, or at who knows of the voters."""
    if view.document is None:
        return view
    if broken is Switch.RECORD_UNKNOWN:
        return dataclasses.replace(view, nodes=tuple(_knowing(node, view.document) for node in view.nodes))
    if broken is Switch.SURVIVOR_MISSED:
        return dataclasses.replace(view, timings=dataclasses.replace(view.timings, heir_ms=view.timings.straggler_ms))
    if broken is Switch.PAUSE_IGNORED:
        return dataclasses.replace(view, document=msgspec.structs.replace(view.document, paused=False))
    if broken is Switch.OLD_PRIMARY_NEVER_COUNTS and view.document.transition is not None:
        old = view.document.transition.from_node
        return dataclasses.replace(view, promises={name: one for name, one in view.promises.items() if name != old})
    if broken is not Switch.STORE_ROLLED_BACK:
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
    revision = max(observation.seen.revision, document.revision)
    seen = msgspec.structs.replace(observation.seen, revision=revision, voters=document.voters)
    return dataclasses.replace(node, observation=msgspec.structs.replace(observation, seen=seen))


def break_plan(view: View, plan: Plan, broken: Switch) -> Plan:
    """Return what a manager plans that leaves one rule out."""
    document = view.document
    if document is not None:
        plan = _break_rule(view, document, plan, broken)
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


def _break_rule(view: View, document: Topology, plan: Plan, broken: Switch) -> Plan:
    """Return *plan* without one rule about when something may be done at all."""
    finding, none = plan.finding, document.transition is None
    match broken:
        case Switch.FOLLOW_AFTER_OPENING if document.writer is None:
            return dataclasses.replace(plan, actions=tuple(one for one in plan.actions if not isinstance(one, Follow)))
        case Switch.VETO_TOO_STRONG if finding.failed and none and _wal_reaches_anybody(view, document):
            return dataclasses.replace(plan, actions=())
        case Switch.TOUCH_WITHOUT_SAFE_SET if finding.diagnosis is Diagnosis.NO_SAFE_SET and none and document.writer:
            write = transition.begin(view, document, finding, kind=TransitionKind.FAILOVER)
            return dataclasses.replace(plan, actions=(write,))
        case Switch.ASYNC_SILENCE if document.durability is Durability.ASYNC and none and _is_silent(view, document):
            return _give_up_at_once(view, plan)
        case Switch.NARROW_FIRST if none:
            return _narrow_first(document, plan)
        case Switch.OPEN_UNPROVEN if document.candidate is not None and document.writer is None:
            node = view.node(document.candidate.node)
            seen = node.observation if node is not None else None
            if seen is not None and seen.role is Role.PRIMARY and seen.promoted_epoch == document.epoch:
                return dataclasses.replace(plan, actions=(_written(document, writer=seen.node, transition=None),))
        case Switch.NEEDLESS_LOSS if view.request is not None and view.request.kind is RequestKind.DATA_LOSS:
            return _give_up_at_once(view, plan)
        case Switch.LEFT_OUT_COUNT:
            return _count_the_left_out(document, plan)
        case _:
            pass
    return plan


def _give_up_at_once(view: View, plan: Plan) -> Plan:
    situation = survey(view)
    if situation is None or not survivors(situation):
        return plan
    return dataclasses.replace(plan, actions=(transition.give_up_voters(situation),))


def _narrow_first(document: Topology, plan: Plan) -> Plan:
    for action in plan.actions:
        if not isinstance(action, PutInForce) or document.voters is None:
            continue
        if len(action.voters.members) < len(document.voters.members):
            return dataclasses.replace(plan, actions=(_written(document, voters=action.voters),))
    return plan


def _count_the_left_out(document: Topology, plan: Plan) -> Plan:
    for action in plan.actions:
        if isinstance(action, WriteDocument) and gives_up(document, action.document):
            kept = msgspec.structs.replace(action.document, voters=document.voters)
            return dataclasses.replace(plan, actions=(WriteDocument(kept, "voters stay (broken)"),))
    return plan


def _written(document: Topology, **changes: object) -> WriteDocument:
    revision = Revision(document.revision + 1)
    return WriteDocument(msgspec.structs.replace(document, revision=revision, **changes), "too early (broken)")


def _wal_reaches_anybody(view: View, document: Topology) -> bool:
    return any(node.wal_advanced_age_ms < view.timings.veto_ms for node in view.nodes if node.name != document.writer)


def _is_silent(view: View, document: Topology) -> bool:
    writer = view.node(document.writer)
    return writer is not None and writer.age_ms > view.timings.silence_ms


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
    votes = tally(document, view.promises, view.foreign).counted
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
