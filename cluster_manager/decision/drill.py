"""A rehearsal: what would happen if a node were lost now, by the very rules that would decide it.

The loss is made up and nothing else: the epoch is begun, every voter that could promise now promises where it stands now, and
the same tally and election that a failover uses say who would lead.  Knows nothing of how long it would take but what was
measured (an argument), and orders nothing.
"""

from __future__ import annotations

from collections.abc import Mapping

from cluster_manager.decision.carrying import lost_with
from cluster_manager.decision.diagnose import Diagnosis, Finding, diagnose_writer
from cluster_manager.decision.elect import Elected, elect, tally
from cluster_manager.decision.nodeview import NodeView
from cluster_manager.decision.observed_members import CAUGHT_UP_BYTES
from cluster_manager.decision.prospects import KEPT_DOWN, fit_to_serve, obstacle_after, stuck
from cluster_manager.decision.situation import Situation, survey
from cluster_manager.decision.suspicion import is_running
from cluster_manager.decision.transition import begin
from cluster_manager.decision.view import Promise, View, slots_of
from pgtopology.document import Topology, TransitionKind
from pgtopology.drill import CandidateReadiness, Drill, Readiness
from pgtopology.flight import Measured, VoteTold
from pgtopology.lsn import format_lsn
from pgtopology.node import NodeName, Position, sync_name
from pgtopology.observation import SLOTS_FREE_MIN, Observation
from pgtopology.orders import PromiseAnswer
from pgtopology.quorum import Voter

DISK_FREE_BYTES_MIN = 1 << 30
"""Less than this would not last long for a writer."""


def obstacle(view: View, lose: str | None) -> str | None:
    """Return why nothing can be rehearsed, or None."""
    document = view.document
    if document is None or document.voters is None:
        return "there is no cluster yet"
    if document.transition is not None or document.writer is None:
        return f"there is no writer at this moment: a transition of epoch {document.epoch} is under way"
    if lose is not None and view.node(lose) is None:
        return f'there is no node "{lose}"; the nodes are {", ".join(spec.name for spec in view.specs)}'
    return None


def rehearse(view: View, lose: str | None, readiness: Mapping[NodeName, Readiness], expected: Measured | None) -> Drill:
    """Return what the loss of *lose*, the writer if None, would do now. To be asked only without `obstacle`."""
    situation = survey(view)
    assert situation is not None
    document, voters = situation.document, situation.voters
    assert document.writer is not None
    lost = NodeName(lose) if lose is not None else document.writer
    able = tuple(voter for voter in situation.promisable if voter.name != lost)
    missing = {name: why for name, why in situation.missing.items() if name != lost} | {lost: "is the one that is lost"}
    elected, votes = _hold_election(view, document, able)
    is_writer = lost == document.writer
    possible, verdict = _verdict(situation, lost, elected)
    asked = tuple(node.name for node in view.nodes if node.name != lost and _has_data(node))
    left = [voter.name for voter in able]
    serving = fit_to_serve(document, left)
    return Drill(
        lose=lost,
        is_writer=is_writer,
        possible=possible,
        verdict=verdict,
        epoch=begin_loss(view, document).epoch,
        n=len(voters.members),
        w=voters.w,
        needed=voters.safe_set_size,
        promisable=len(able),
        votes=tuple(
            VoteTold(
                node=voter.name,
                counts=voter in able,
                why=_why_it_counts(view, voter) if voter in able else missing.get(voter.name, votes.get(voter.name, "")),
            )
            for voter in voters.members
        ),
        recruited=asked if is_writer else (),
        winner=elected.node if elected is not None and is_writer else None,
        because=elected.because if elected is not None and is_writer else "",
        passed_over=dict(elected.passed_over) | {str(lost): "is the one that is lost"}
        if elected is not None and is_writer
        else {},
        survives_another=possible and len(left) - 1 >= voters.safe_set_size and len(serving) - 1 >= voters.w,
        expected=expected if is_writer else None,
        in_the_way=_in_the_way(view, document, readiness),
        nodes=tuple(
            _candidate(situation, node, readiness.get(node.name), counts=node.name in left)
            for node in view.nodes
            if node.name != lost
        ),
    )


def begin_loss(view: View, document: Topology) -> Topology:
    """Return the document a failover would begin with."""
    finding = Finding(Diagnosis.PRIMARY_FAILED, "a rehearsal", failed=True)
    return begin(view, document, finding, kind=TransitionKind.FAILOVER).document


def _hold_election(view: View, document: Topology, able: tuple[Voter, ...]) -> tuple[Elected | None, dict[str, str]]:
    """Let everybody who can promise do so where it stands now; return who would win, and why others would not count."""
    begun = begin_loss(view, document)
    promises: dict[NodeName, Promise] = {}
    for voter in able:
        node = view.node(voter.name)
        if node is not None and node.observation is not None:
            promises[voter.name] = Promise(
                answer=_answer(node, voter, begun), at_ms=view.now_ms, wal_advanced_at_ms=view.now_ms - node.wal_advanced_age_ms
            )
    votes = tally(begun, promises, view.foreign)
    return elect(begun, votes), dict(votes.passed_over)


def _answer(node: NodeView, voter: Voter, begun: Topology) -> PromiseAnswer:
    observation = node.observation
    assert observation is not None
    position = None
    if observation.timeline is not None and observation.wal_end is not None:
        replayed = observation.replayed_lsn if observation.replayed_lsn is not None else observation.wal_end
        position = Position(timeline=observation.timeline, lsn=max(observation.wal_end, replayed), replayed_lsn=replayed)
    return PromiseAnswer(
        node=node.name,
        promised=begun.epoch,
        incarnation=voter.incarnation,
        system_identifier=observation.system_identifier,
        whole=observation.whole,
        seen=observation.seen,
        position=position,
        unknown_because="" if position is not None else "PostgreSQL would have to start first",
    )


def _verdict(situation: Situation, lost: NodeName, elected: Elected | None) -> tuple[bool, str]:
    """Return whether commits would go on without *lost*, and the sentence about it."""
    document = situation.document
    why_not = stuck(situation.view, diagnose_writer(situation))
    if why_not is not None:
        return False, f"commits wait already: {why_not}"
    why_not = obstacle_after(situation, (lost,))
    if why_not is not None:
        return False, why_not
    if lost != document.writer:
        return True, f'no failover: "{lost}" is not the writer, and "{document.writer}" keeps the quorum it needs'
    if elected is None:
        return True, "a safe set could promise; who leads is known when its PostgreSQL servers have started"
    return True, f'"{elected.node}" would become the writer: {elected.because}'


def _has_data(node: NodeView) -> bool:
    return node.observation is None or node.observation.system_identifier is not None


def _why_it_counts(view: View, voter: Voter) -> str:
    node = view.node(voter.name)
    observation = node.observation if node is not None else None
    if observation is None or observation.wal_end is None:
        return "could promise; where it stands is known when its PostgreSQL has started"
    return f"whole, heard, at {format_lsn(observation.wal_end)} on timeline {observation.timeline}"


def _in_the_way(view: View, document: Topology, readiness: Mapping[NodeName, Readiness]) -> tuple[str, ...]:
    found: list[str] = []
    if document.paused:
        found.append("automatic failover is paused")
    told = readiness.get(document.writer) if document.writer is not None else None
    if told is not None and told.prepared_transactions:
        age = f", the oldest for {told.oldest_prepared_ms / 1000:.0f} s" if told.oldest_prepared_ms is not None else ""
        found.append(
            f"{told.prepared_transactions} prepared transaction(s) on the writer{age}: they survive a failover with their locks"
        )
    beat = view.node(document.writer)
    heartbeat = beat.observation.heartbeat if beat is not None and beat.observation is not None else None
    if heartbeat is not None and heartbeat.pending_ms >= view.timings.stuck_ms:
        found.append(f"the quorum heartbeat has waited for {heartbeat.pending_ms} ms")
    return tuple(found)


def _candidate(situation: Situation, node: NodeView, told: Readiness | None, *, counts: bool) -> CandidateReadiness:
    observation, document = node.observation, situation.document
    obstacles = _why_no_leader(situation, node, counts=counts)
    notes: list[str] = []
    behind = None
    if observation is not None:
        if observation.wal_end is not None and observation.replayed_lsn is not None:
            behind = max(0, observation.wal_end - observation.replayed_lsn)
        _judge_seen(observation, behind, obstacles, notes)
    notes += lost_with(situation.view, node.name)
    member = document.member(node.name)
    if member is not None and member.leaving:
        notes.append("is being taken out of the cluster")
    if told is not None:
        _judge(document, node, told, obstacles, notes)
    elif observation is not None and is_running(node):
        notes.append("its noded does not tell what sessions and slots it has")
    return CandidateReadiness(
        node=node.name,
        zone=node.spec.zone,
        counts=counts,
        wal_end=format_lsn(observation.wal_end) if observation is not None and observation.wal_end is not None else None,
        replay_bytes=behind,
        ready=counts and not obstacles,
        obstacles=tuple(obstacles),
        notes=tuple(notes),
    )


def _why_no_leader(situation: Situation, node: NodeView, *, counts: bool) -> list[str]:
    """Return why the node could not be elected, or not lead at once, before anything else is said of it."""
    member = situation.document.member(node.name)
    if situation.voters.find(node.name) is None:
        return ["is no voter: it would be asked, and could not be elected"]
    if not counts:
        return [situation.missing.get(node.name, "could not promise")]
    if member is not None and member.stopped:
        return [f"{KEPT_DOWN}: it could promise, and would acknowledge nothing"]
    return [] if is_running(node) else ["its PostgreSQL would have to start first"]


def _judge_seen(observation: Observation, behind: int | None, obstacles: list[str], notes: list[str]) -> None:
    """Add what the node's own noded says of it all the time."""
    if behind is not None and behind > CAUGHT_UP_BYTES:
        obstacles.append(f"{behind / 1_048_576:.1f} MiB of WAL to replay before it is promoted")
    if observation.disk is not None and observation.disk.free_bytes < DISK_FREE_BYTES_MIN:
        obstacles.append(f"only {observation.disk.free_bytes >> 20} MiB are free on its disk")
    if (slots := observation.slots) is not None and slots.limit - slots.used < SLOTS_FREE_MIN:
        notes.append(f"{slots.used} of {slots.limit} replication slots are used: a node made anew needs one on the writer")
    if observation.pending_restart:
        notes.append("settings wait for a restart")
    if observation.login_problem:
        worries = notes if observation.login_spared else obstacles
        worries.append(f"a login fails that it may need: {observation.login_problem}")
    if observation.problem:
        notes.append(observation.problem)


def _judge(document: Topology, node: NodeView, told: Readiness, obstacles: list[str], notes: list[str]) -> None:
    """Add what PostgreSQL itself tells of the node."""
    member = document.member(node.name)
    own = sync_name(member.name, member.incarnation) if member is not None and member.incarnation is not None else None
    absent = sorted(set(slots_of(document)) - {own} - set(told.slots))
    if absent:
        obstacles.append(f"lacks the slot(s) {', '.join(absent)}: followers of theirs could not stream from it at once")
    if told.lost_slots:
        notes.append(f"the WAL reserved for {', '.join(told.lost_slots)} is gone: those nodes would be copied anew")
    if told.restore_command:
        obstacles.append("restore_command is set: a promotion waits for it")
    if told.replay_paused:
        obstacles.append("replay is paused (pg_wal_replay_resume() goes on)")
    if told.replay_blocked:
        obstacles.append("replay waits for a session; a promotion would end it")
    notes.extend(
        f"session {one.pid} ({one.user}, {one.application or 'no application name'}) has had a transaction open for "
        f"{one.open_for}{' and holds a snapshot' if one.holds_snapshot else ''}; if it blocks replay it is ended"
        for one in told.long_sessions
    )
