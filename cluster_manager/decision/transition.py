"""The unfinished transition: what to do next while there is no writer.

The steps stand in the document, so that whoever finds one continues with it: recruit (gather promises until a safe set stands),
claim (candidate and timeline, by compare-and-swap), then in parallel follow, promote and prove, then open.  Anything that goes
wrong before the opening is answered by a new epoch, never by a second candidate in this one (S5).  Once begun a transition is
finished also while the cluster is paused.
"""

from __future__ import annotations

import msgspec

from cluster_manager.decision.actions import Action, AskPromise, Follow, Promote, WriteDocument
from cluster_manager.decision.diagnose import Diagnosis, Finding
from cluster_manager.decision.elect import Elected, Tally, elect, tally
from cluster_manager.decision.repair import rejoining
from cluster_manager.decision.suspicion import Health, health, promisable, survivors
from cluster_manager.decision.view import NodeView, View, is_fresh
from pgtopology.document import Candidate, Durability, Step, Topology, Transition, TransitionKind
from pgtopology.epoch import Epoch, Revision
from pgtopology.lsn import format_lsn
from pgtopology.node import NodeName, NodeState, Role
from pgtopology.observation import Observation, PostmasterState
from pgtopology.orders import StopMode, Upstream
from pgtopology.quorum import make_voters
from pgtopology.timeline import RECORDS_MAX, TimelineRecord, fork_from, next_timeline


def begin(
    view: View, document: Topology, finding: Finding, *, kind: TransitionKind, target: NodeName | None = None
) -> WriteDocument:
    """Publish that there is no writer, under the next epoch (DESIGN 4.2)."""
    epoch = Epoch(document.epoch + 1)
    transition = Transition(
        kind=kind,
        step=Step.RECRUITING,
        cause=str(finding.cause or finding.diagnosis),
        from_node=document.writer,
        target=target,
        avoid_old=kind is TransitionKind.SWITCHOVER or finding.diagnosis is Diagnosis.SWITCHOVER_REQUESTED,
        first_epoch=epoch,
        started_at=view.wall_time,
    )
    return WriteDocument(_next(document, epoch=epoch, writer=None, candidate=None, transition=transition), finding.reason)


def give_up_voters(view: View, document: Topology, *, target: NodeName | None = None) -> WriteDocument:
    """Go on with the voters that answer, under the next epoch, and say that durability is reduced (S13).

    The voters left out can never again stand in the way, nor be counted: what only they hold is lost, and they come back as
    followers.
    """
    able = survivors(view, document)
    _, missing = promisable(view, document)
    epoch = Epoch(document.epoch + 1)
    old = document.transition
    transition = Transition(
        kind=TransitionKind.FAILOVER,
        step=Step.RECRUITING,
        cause="ALLOW_DATA_LOSS",
        from_node=document.writer if old is None else old.from_node,
        target=target,
        first_epoch=epoch if old is None else old.first_epoch,
        started_at=view.wall_time,
    )
    w = min(document.voters.w if document.voters is not None else 1, len(able))
    who = "; ".join(f'"{name}" {why}' for name, why in missing.items())
    return WriteDocument(
        _next(
            document,
            epoch=epoch,
            writer=None,
            candidate=None,
            transition=transition,
            voters=make_voters(able, w),
            durability=Durability.REDUCED,
        ),
        f"an operator gives up the voters that do not answer, and what only they hold: {who}; "
        "one that still runs may acknowledge commits that will be lost",
    )


def proceed(view: View, document: Topology, transition: Transition) -> tuple[Finding, tuple[Action, ...]]:
    """Return where the transition stands and what to do next."""
    if transition.step is Step.PROMOTING and document.candidate is not None:
        return _promoting(view, document, transition, document.candidate)
    return _recruiting(view, document, transition)


def _recruiting(view: View, document: Topology, transition: Transition) -> tuple[Finding, tuple[Action, ...]]:
    if not view.epoch_is_ours:
        return _in_flight(transition, "an earlier manager began it: recruiting starts anew"), (
            _new_attempt(document, transition, "recruiting begins anew under this manager"),
        )
    votes = tally(document, view.promises)
    elected = elect(document, votes)
    if elected is not None:
        safe_since_ms = _safe_since_ms(document, votes)
        everybody = len(votes.counted) == len(document.voters.members if document.voters is not None else ())
        patience_ms = view.timings.heir_ms if _finds_no_heir(transition, elected) else view.timings.straggler_ms
        if everybody or view.now_ms - safe_since_ms >= patience_ms:
            claim = _claim(view, document, transition, elected)
            return _in_flight(transition, f'"{elected.node}" is elected: {elected.because}'), (claim,)
        return _in_flight(transition, "a safe set promised; waiting a moment for better nodes"), _ask(
            view, document, transition
        )
    actions = _ask(view, document, transition)
    needed = document.voters.safe_set_size if document.voters is not None else 0
    able, missing = promisable(view, document)
    if document.voters is not None and not document.voters.is_safe_set(able):
        who = "; ".join(f'"{name}" {why}' for name, why in missing.items())
        reason = f"{len(votes.counted)} of the {needed} voters needed promised epoch {document.epoch}: {who}"
        return Finding(Diagnosis.NO_SAFE_SET, reason, cause=Diagnosis.TRANSITION_IN_FLIGHT), actions
    if not actions and not view.promises:
        return _in_flight(transition, f'sessions of "{transition.from_node}" finish what they are doing'), actions
    waiting = "; ".join(f'"{name}" {why}' for name, why in votes.passed_over.items())
    if _all_answered(view, document) and document.voters is not None:
        reason = f"every voter answered, but only {len(votes.counted)} of the {needed} needed count: {waiting}"
        return Finding(Diagnosis.NO_CANDIDATE, reason, cause=Diagnosis.TRANSITION_IN_FLIGHT), actions
    return _in_flight(transition, f"gathering promises of epoch {document.epoch}: {waiting}"), actions


def _finds_no_heir(transition: Transition, elected: Elected) -> bool:
    """Return whether a handover would go back to where it came from."""
    return transition.avoid_old and elected.node == transition.from_node


def _ask(view: View, document: Topology, transition: Transition) -> tuple[Action, ...]:
    """Ask every node that has data for its promise, until it is known how far the node reaches.

    A planned handover lets sessions finish first, and then asks the old primary before the others: it stops in good order,
    which sends all its WAL to everybody, so that the others are level when they are asked.
    """
    old = view.node(transition.from_node)
    if transition.kind is TransitionKind.SWITCHOVER and old is not None and old.name not in view.promises:
        since_ms = view.now_ms - view.epoch_began_at_ms
        crashed = old.observation is not None and old.observation.postmaster.unexpected_exit
        alive = health(old, view.timings) is not Health.SILENT and not crashed
        if alive and not view.proxies_settled and since_ms < view.timings.drain_ms:
            return ()
        if alive and since_ms < view.timings.drain_ms + view.timings.handover_ms:
            return (AskPromise(old.name, StopMode.FAST),)
    return tuple(AskPromise(node.name) for node in view.nodes if _worth_asking(view, document, node))


def _worth_asking(view: View, document: Topology, node: NodeView) -> bool:
    promise = view.promises.get(node.name)
    if promise is not None and promise.answer.promised >= document.epoch and promise.answer.position is not None:
        return False
    return node.observation is None or node.observation.system_identifier is not None


def _all_answered(view: View, document: Topology) -> bool:
    names = document.voters.names if document.voters is not None else ()
    return all(name in view.promises and view.promises[name].answer.position is not None for name in names)


def _safe_since_ms(document: Topology, votes: Tally) -> float:
    """Return when the promises that count first were a safe set."""
    size = document.voters.safe_set_size if document.voters is not None else 1
    return sorted(one.promise.at_ms for one in votes.counted)[size - 1]


def _claim(view: View, document: Topology, transition: Transition, elected: Elected) -> WriteDocument:
    """Write down candidate and timeline before anything is promoted (DESIGN 4.5)."""
    observed = [node.observation.timeline for node in view.nodes if node.observation and node.observation.timeline]
    answered = [promise.answer.position.timeline for promise in view.promises.values() if promise.answer.position]
    timeline = next_timeline(document.timelines, [*observed, *answered])
    record = TimelineRecord(
        timeline=timeline,
        epoch=document.epoch,
        node=elected.node,
        parent=elected.position.timeline,
        fork_lsn=elected.position.lsn,
    )
    passed = "; ".join(f'"{name}" {why}' for name, why in elected.passed_over.items())
    return WriteDocument(
        _next(
            document,
            candidate=Candidate(elected.node, timeline),
            timelines=(*document.timelines, record)[-RECORDS_MAX:],
            transition=msgspec.structs.replace(transition, step=Step.PROMOTING),
        ),
        f'"{elected.node}" is elected: {elected.because}' + (f" (passed over: {passed})" if passed else ""),
    )


def _promoting(
    view: View, document: Topology, transition: Transition, candidate: Candidate
) -> tuple[Finding, tuple[Action, ...]]:
    node = view.node(candidate.node)
    timeline = candidate.timeline
    if node is None or timeline is None:
        return _in_flight(transition, f'the candidate "{candidate.node}" is gone from the settings'), (
            _new_attempt(document, transition, f'the candidate "{candidate.node}" is gone'),
        )
    lost = _why_given_up(view, document, node)
    if lost is not None:
        able, missing = promisable(view, document)
        if document.voters is not None and document.voters.is_safe_set(able):
            return _in_flight(transition, lost), (_new_attempt(document, transition, lost),)
        who = "; ".join(f'"{name}" {why}' for name, why in missing.items())
        return Finding(Diagnosis.NO_SAFE_SET, f"{lost}; {who}", cause=Diagnosis.TRANSITION_IN_FLIGHT), ()
    followers = _followers(view, document, node)
    if not _is_promoted(node, document):
        return _in_flight(transition, f'"{node.name}" is being promoted to timeline {timeline}'), (
            Promote(node.name, timeline),
            *followers,
        )
    waiting = _why_not_open(view, document, transition, node)
    if waiting is not None:
        return _in_flight(transition, f'"{node.name}" is promoted; {waiting}'), (*followers, *_helpers(view, document, node))
    return _in_flight(transition, f'"{node.name}" has its quorum'), (_open(document, node),)


def _is_promoted(node: NodeView, document: Topology) -> bool:
    observation = node.observation
    return (
        observation is not None
        and document.candidate is not None
        and observation.role is Role.PRIMARY
        and observation.promoted_epoch == document.epoch
        and observation.timeline == document.candidate.timeline
    )


def _why_given_up(view: View, document: Topology, node: NodeView) -> str | None:
    """Return why the candidate cannot be waited for any longer, or None (L5)."""
    timings = view.timings
    since_ms = view.now_ms - max(view.epoch_began_at_ms, view.claimed_at_ms)
    if health(node, timings) in (Health.SILENT, Health.UNSEEN):
        return f'the candidate "{node.name}" is silent' if since_ms >= timings.silence_ms else None
    observation = node.observation
    if observation is None:
        return None
    if is_fresh(node, timings) and observation.postmaster.state is PostmasterState.STOPPED:
        return f'PostgreSQL on the candidate "{node.name}" has stopped'
    if observation.promised > document.epoch:
        return f'the candidate "{node.name}" has promised epoch {observation.promised}'
    if observation.role is Role.PRIMARY:
        if not _is_promoted(node, document):
            return f'the candidate "{node.name}" runs as the primary of another epoch or timeline'
        stuck = since_ms >= timings.opening_ms and node.running_for_ms >= timings.opening_ms
        return f'the candidate "{node.name}" finds no quorum' if stuck else None
    still = min(since_ms, node.replay_advanced_age_ms, node.running_for_ms)
    return f'the candidate "{node.name}" makes no progress' if still >= timings.replay_progress_ms else None


def _followers(view: View, document: Topology, candidate: NodeView) -> tuple[Action, ...]:
    """Order the fenced standbys whose history the candidate's continues to stream from it, also before it is promoted (L2)."""
    upstream = Upstream(candidate.name, candidate.spec.address)
    return tuple(
        Follow(node.name, upstream)
        for node in view.nodes
        if node.name != candidate.name and node.observation is not None and _may_follow(node, node.observation, document)
    )


def _helpers(view: View, document: Topology, candidate: NodeView) -> tuple[Action, ...]:
    """Bring up who could complete the quorum of a candidate that has waited for it for a while.

    Nodes that have not promised this epoch are asked, for they may have come back since; those that went past the fork are
    rewound or made anew from the candidate.  That destroys nothing that was acknowledged: the candidate was elected by a safe
    set (S7).
    """
    if candidate.running_for_ms < view.timings.helpers_ms:
        return ()
    late = tuple(
        AskPromise(node.name)
        for node in view.nodes
        if node.name != candidate.name
        and is_fresh(node, view.timings)
        and node.observation is not None
        and node.observation.system_identifier == document.system_identifier
        and node.observation.promised < document.epoch
    )
    return (*late, *rejoining(view, document, candidate))


def _may_follow(node: NodeView, observation: Observation, document: Topology) -> bool:
    receiver = observation.receiver
    record = document.timelines[-1]
    timeline, replayed = observation.timeline, observation.replayed_lsn
    if timeline is None or replayed is None or receiver is None:
        return False
    fork = fork_from(document.timelines, record.timeline, timeline)
    return (
        observation.promised == document.epoch
        and observation.role is Role.STANDBY
        and observation.postmaster.state is PostmasterState.RUNNING
        and not (receiver.upstream == record.node and receiver.upstream_epoch == document.epoch)
        and (timeline == record.timeline or (fork is not None and replayed <= fork))
    )


def _why_not_open(view: View, document: Topology, transition: Transition, node: NodeView) -> str | None:
    """Return what the opening still waits for, or None: the quorum's proof (S1, L6) and the old writer's readers (S14)."""
    observation = node.observation
    voters = document.voters
    if observation is None or voters is None or not is_fresh(node, view.timings):
        return "it has not been heard lately"
    heartbeat = observation.heartbeat
    if heartbeat is None or heartbeat.epoch != document.epoch or heartbeat.acknowledged_age_ms is None:
        return "its first quorum commit is not acknowledged" + (
            f" ({heartbeat.error})" if heartbeat and heartbeat.error else ""
        )
    needed = voters.others_needed(node.name)
    proofs = {voter.sync_name for voter in voters.members if voter.name != node.name}
    flushed = {
        sender.name
        for sender in observation.walsenders
        if sender.name in proofs
        and sender.slot == sender.name
        and sender.flush_lsn is not None
        and heartbeat.lsn is not None
        and sender.flush_lsn >= heartbeat.lsn
    }
    if len(flushed) < needed:
        return f"{len(flushed)} of the {needed} other voters needed have flushed its first commit"
    if transition.from_node is not None and not _is_proven_stopped(view, document, transition.from_node, node):
        # Its heartbeat vouches for it as long as its WAL arrived somewhere; a frame of ours as long as it may have been lent.
        since_ms = [view.started_at_ms, *(promise.wal_advanced_at_ms for promise in view.promises.values())]
        if not view.proxies_settled:
            since_ms.append(view.epoch_began_at_ms)
        left_ms = view.timings.reader_lease_ms - (view.now_ms - max(since_ms))
        if left_ms > 0:
            return f'"{transition.from_node}" may still be read through a proxy for {left_ms:.0f} ms'
    return None


def _is_proven_stopped(view: View, document: Topology, old: NodeName, candidate: NodeView) -> bool:
    """Return whether the old primary cannot be serving anybody."""
    if old == candidate.name:
        return True
    promise = view.promises.get(old)
    if promise is not None and promise.answer.promised >= document.epoch:
        return True
    node = view.node(old)
    if node is None or node.observation is None:
        return False
    observation = node.observation
    stopped = observation.postmaster.state is PostmasterState.STOPPED
    fenced = observation.role is Role.STANDBY and observation.promised >= document.epoch
    return is_fresh(node, view.timings) and (stopped or fenced)


def _open(document: Topology, node: NodeView) -> WriteDocument:
    """Name the writer (DESIGN 4.6)."""
    record = document.timelines[-1]
    members = tuple(
        msgspec.structs.replace(
            member,
            role=Role.PRIMARY,
            state=NodeState.RUNNING,
            timeline=record.timeline,
            reader_eligible=False,
            lag_bytes=0,
        )
        if member.name == node.name
        else member
        for member in document.members
    )
    return WriteDocument(
        _next(
            document,
            writer=node.name,
            timelines=(*document.timelines[:-1], msgspec.structs.replace(record, opened=True)),
            members=members,
            transition=None,
        ),
        f'"{node.name}" is the writer of epoch {document.epoch} on timeline {record.timeline}, '
        f"from {format_lsn(record.fork_lsn)}",
    )


def _new_attempt(document: Topology, transition: Transition, because: str) -> WriteDocument:
    """Start recruiting anew under the next epoch, for the same failure."""
    return WriteDocument(
        _next(
            document,
            epoch=Epoch(document.epoch + 1),
            candidate=None,
            transition=msgspec.structs.replace(transition, step=Step.RECRUITING),
        ),
        because,
    )


def _next(document: Topology, **changes: object) -> Topology:
    return msgspec.structs.replace(document, revision=Revision(document.revision + 1), **changes)


def _in_flight(transition: Transition, reason: str) -> Finding:
    if transition.kind is TransitionKind.BOOTSTRAP:
        return Finding(Diagnosis.BOOTSTRAPPING, reason)
    return Finding(Diagnosis.TRANSITION_IN_FLIGHT, reason)
