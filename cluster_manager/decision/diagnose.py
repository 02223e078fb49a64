"""Names the situation, before anybody chooses a remedy.

A diagnosis is one word for what the observations together say of the cluster, with the sentence an operator reads beside it.
Only a finding that says `failed` calls for another writer; what is done about the rest is `repair`'s business.  The order of
the questions is the law's (law F1): hard evidence first, then the soft kind with its veto, then whether a safe set could
promise at all, for without one nothing is touched.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from cluster_manager.decision.flapping import held
from cluster_manager.decision.nodeview import NodeView
from cluster_manager.decision.situation import Situation
from cluster_manager.decision.slowdisks import why_disks_are_slow
from cluster_manager.decision.suspicion import Health, has_lost_writer, is_running, tell, tell_names
from cluster_manager.decision.view import View
from pgtopology.document import Durability, Topology
from pgtopology.epoch import is_behind
from pgtopology.node import Role
from pgtopology.observation import Observation, Port, PostmasterState
from pgtopology.quorum import others_asked


class Diagnosis(StrEnum):
    """What is going on."""

    HEALTHY = "HEALTHY"
    NO_CLUSTER = "NO_CLUSTER"
    """There is no document, and no order to make a cluster or no means to."""
    BOOTSTRAPPING = "BOOTSTRAPPING"
    STORE_BEHIND = "STORE_BEHIND"
    """A node has acted on a newer document than the store holds."""
    TRANSITION_IN_FLIGHT = "TRANSITION_IN_FLIGHT"
    PRIMARY_SUSPECT = "PRIMARY_SUSPECT"
    PRIMARY_FAILED = "PRIMARY_FAILED"
    POSTMASTER_HUNG = "POSTMASTER_HUNG"
    COMMIT_STUCK = "COMMIT_STUCK"
    MANAGER_ISOLATED = "MANAGER_ISOLATED"
    NO_SAFE_SET = "NO_SAFE_SET"
    NO_CANDIDATE = "NO_CANDIDATE"
    TWO_PRIMARIES = "TWO_PRIMARIES"
    REPLICA_MISSING = "REPLICA_MISSING"
    REPLICA_DIVERGED = "REPLICA_DIVERGED"
    VOTERS_CHANGING = "VOTERS_CHANGING"
    SWITCHOVER_REQUESTED = "SWITCHOVER_REQUESTED"
    PAUSED = "PAUSED"
    FAILOVER_HELD = "FAILOVER_HELD"
    """The writer may have failed, but others were thought so lately: nothing is done yet upon evidence that is only soft."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A diagnosis and why."""

    diagnosis: Diagnosis
    reason: str
    failed: bool = False
    """Whether the law calls for another writer, and lets the manager look for one."""
    is_soft: bool = False
    """Whether a failure is inferred from silence or waiting only."""
    cause: Diagnosis | None = None
    """What is wrong with the primary, where *diagnosis* says why nothing can be done about it."""


def diagnose_store(view: View) -> Finding | None:
    """Return STORE_BEHIND if any node or proxy has seen a greater epoch or revision than the document's, or the store is empty.

    Whoever acts on an old document would order the past: nothing may be ordered then (S12).
    """
    document = view.document
    for node in view.nodes:
        observation = node.observation
        if observation is None or not speaks_of(node, document):
            continue
        seen = observation.seen
        if document is None:
            if observation.system_identifier is not None and seen.epoch > 0:
                return Finding(
                    Diagnosis.STORE_BEHIND,
                    f'the store is empty, but "{node.name}" has seen epoch {seen.epoch}, revision {seen.revision}',
                )
        elif observation.promised > document.epoch or is_behind(
            (document.epoch, document.revision), (seen.epoch, seen.revision)
        ):
            return Finding(
                Diagnosis.STORE_BEHIND,
                f"the store holds epoch {document.epoch}, revision {document.revision}, but "
                f'"{node.name}" has seen epoch {max(seen.epoch, observation.promised)}, revision {seen.revision}',
            )
    if document is not None and document.voters is not None and view.proxies_seen > (document.epoch, document.revision):
        epoch, revision = view.proxies_seen
        return Finding(
            Diagnosis.STORE_BEHIND,
            f"the store holds epoch {document.epoch}, revision {document.revision}, but a proxy has seen epoch {epoch}, "
            f"revision {revision}",
        )
    return None


def speaks_of(node: NodeView, document: Topology | None) -> bool:
    """Return whether what the node has seen is of this cluster: it has no data, or the document's system identifier."""
    observation = node.observation
    known = document.system_identifier if document is not None else None
    return (
        observation is None or known is None or observation.system_identifier is None or observation.system_identifier == known
    )


def diagnose_writer(situation: Situation) -> Finding:
    """Return what is the matter with the published writer; HEALTHY if nothing is."""
    document, view, writer = situation.document, situation.view, situation.writer
    if writer is None:
        return Finding(Diagnosis.PRIMARY_SUSPECT, f'the writer "{document.writer}" is not among the configured nodes')
    seen = situation.fresh.get(writer.name)
    suspicion = _hard_evidence(situation, writer, seen) or _soft_evidence(situation, writer, seen)
    if suspicion is None:
        return Finding(Diagnosis.HEALTHY, f'"{writer.name}" is the writer of epoch {document.epoch}')
    if not suspicion.failed:
        return suspicion
    if not situation.has_safe_set:
        able, needed, who = len(situation.promisable), situation.voters.safe_set_size, tell(situation.missing)
        return Finding(
            Diagnosis.NO_SAFE_SET,
            f"{suspicion.reason}; only {able} of the {needed} voters needed could promise: {who}",
            cause=suspicion.diagnosis,
        )
    if document.paused:
        return Finding(Diagnosis.PAUSED, f"{suspicion.reason}; automatic failover is paused", cause=suspicion.diagnosis)
    if suspicion.is_soft and (hold := held(view.anti_flap, view.soft_failovers_at_ms, view.now_ms)) is not None:
        return Finding(
            Diagnosis.FAILOVER_HELD,
            f"{suspicion.reason}; held for another {hold.for_ms / 1000:.0f} s: {hold.because}",
            cause=suspicion.diagnosis,
        )
    return suspicion


def _hard_evidence(situation: Situation, writer: NodeView, seen: Observation | None) -> Finding | None:
    """Return a failure that needs no patience, or None. *seen* is the writer's own word, if it may be acted upon."""
    if seen is not None:
        gone = _not_the_primary(seen, situation.document)
        if gone is not None:
            return Finding(Diagnosis.PRIMARY_FAILED, f'on "{writer.name}" {gone}', failed=True)
        if seen.postmaster.deaf_ms >= situation.timings.deaf_ms:
            return Finding(
                Diagnosis.POSTMASTER_HUNG,
                f'PostgreSQL on "{writer.name}" has answered no new connection for {seen.postmaster.deaf_ms} ms',
                failed=True,
            )
        return None
    if writer.port is not Port.REFUSED:
        return None
    refused = [node for node in situation.voters_beside(writer.name) if _meets_refusal(situation, node, writer)]
    if refused:
        return Finding(
            Diagnosis.PRIMARY_FAILED,
            f'the PostgreSQL port of "{writer.name}" refuses, from here and from {tell_names(refused)}',
            failed=True,
        )
    witnesses = _witnesses_who_lost_it(situation, writer)
    if witnesses:
        return Finding(
            Diagnosis.PRIMARY_FAILED,
            f'the PostgreSQL port of "{writer.name}" refuses, and {tell_names(witnesses)} lost it too',
            failed=True,
        )
    return None


def _meets_refusal(situation: Situation, node: NodeView, writer: NodeView) -> bool:
    """Return whether the node's host is refused at the writer's port too, so that no filter before us is the cause."""
    seen = situation.fresh.get(node.name)
    receiver = seen.receiver if seen is not None else None
    return receiver is not None and receiver.upstream == writer.name and receiver.upstream_port is Port.REFUSED


def _not_the_primary(observation: Observation, document: Topology) -> str | None:
    """Return why the node's own noded says that it is not the primary of this epoch, or None."""
    match observation.postmaster.state:
        case PostmasterState.STOPPED | PostmasterState.STOPPING if observation.postmaster.unexpected_exit:
            return f"PostgreSQL ended unexpectedly (status {observation.postmaster.exit_status})"
        case PostmasterState.STOPPED:
            return "PostgreSQL is stopped"
        case PostmasterState.RUNNING if observation.role is Role.STANDBY:
            return "PostgreSQL runs as a standby"
        case PostmasterState.RUNNING if observation.role is Role.PRIMARY and observation.promoted_epoch != document.epoch:
            return f"PostgreSQL runs as the primary of epoch {observation.promoted_epoch}, not {document.epoch}"
        case PostmasterState.RUNNING if observation.role is Role.PRIMARY and _is_elsewhere(observation, document):
            return f"PostgreSQL was promoted by nobody's order, to timeline {observation.timeline}"
        case PostmasterState.STARTING:
            return "PostgreSQL is starting as a standby"
        case PostmasterState.RUNNING | PostmasterState.STOPPING:
            return None
    return None


def _is_elsewhere(observation: Observation, document: Topology) -> bool:
    """Return whether a primary is on another timeline than the one claimed for this epoch (S3)."""
    claimed = document.candidate.timeline if document.candidate is not None else None
    return claimed is not None and observation.timeline is not None and observation.timeline != claimed


def _soft_evidence(situation: Situation, writer: NodeView, seen: Observation | None) -> Finding | None:
    """Return what silence or an unanswered heartbeat says, with the veto, or None."""
    return _stuck_commit(situation, writer, seen) if seen is not None else _silence(situation, writer)


def _silence(situation: Situation, writer: NodeView) -> Finding | None:
    """Return what it says that the writer has not been heard lately, or None."""
    view, timings, found = situation.view, situation.timings, situation.health[writer.name]
    if found is Health.UNSEEN and view.now_ms - view.started_at_ms < timings.silence_ms:
        return Finding(Diagnosis.PRIMARY_SUSPECT, f'"{writer.name}" has not been heard yet, and this manager has just begun')
    silence = f'"{writer.name}" has been silent for {min(writer.age_ms, view.now_ms - view.started_at_ms) / 1000:.1f} s'
    advancing = [node for node in _followers(situation, writer) if node.wal_advanced_age_ms < timings.veto_ms]
    needed = _others_needed_of_silent(situation, writer)
    if needed and len(advancing) >= needed:
        if found is Health.LATE:
            return None
        return Finding(
            Diagnosis.MANAGER_ISOLATED,
            f"{silence}, but its WAL still reaches {tell_names(advancing)}: this manager is cut off from it, not the cluster",
        )
    if found is Health.LATE:
        return Finding(Diagnosis.PRIMARY_SUSPECT, silence)
    excuse = _why_silence_is_not_enough(situation, writer)
    if excuse is not None:
        return Finding(Diagnosis.PRIMARY_SUSPECT, silence + excuse)
    witnesses = _witnesses_who_lost_it(situation, writer)
    if witnesses:
        lost = f"{silence}, and {tell_names(witnesses)} lost it too"
        return Finding(Diagnosis.PRIMARY_FAILED, lost, failed=True, is_soft=True)
    heard = [node for node in situation.voters_beside(writer.name) if node.name in situation.fresh]
    if all(has_lost_writer(node, timings) for node in heard) and not situation.has_safe_set:
        # Nobody denies it, and nothing can be done about it: what matters to an operator is who is missing.
        return Finding(Diagnosis.PRIMARY_FAILED, silence, failed=True, is_soft=True)
    return Finding(Diagnosis.PRIMARY_SUSPECT, f"{silence}, but no majority of the other voters has lost it")


def _why_silence_is_not_enough(situation: Situation, writer: NodeView) -> str | None:
    """Return why it does not matter who else lost the silent writer, or None."""
    if writer.port is Port.ANSWERS:
        return ", but its PostgreSQL answers: only its noded is away"
    if situation.document.durability is Durability.ASYNC:
        return "; durability is async, so only its noded's word that it stopped, or an operator's, lets another lead"
    return None


def _others_needed_of_silent(situation: Situation, writer: NodeView) -> int:
    """Return how many others must show that its WAL reaches them, so that its commits may be acknowledged.

    A greater w is put in force before it is recorded (S9): the list that the writer showed last, or the one it was sent since,
    may ask for more than the record, and then fewer prove nothing (L3).
    """
    shown = writer.observation.synchronous_standby_names if writer.observation is not None else None
    sent = situation.view.voters_sent
    return max(
        situation.voters.others_needed(writer.name),
        others_asked(shown) if shown is not None else 0,
        sent.voters.others_needed(writer.name) if sent is not None and sent.voters is not None else 0,
    )


def _stuck_commit(situation: Situation, writer: NodeView, seen: Observation) -> Finding | None:
    """Return COMMIT_STUCK if the writer's heartbeat waits too long. One that fails with an SQL error is no evidence (L6)."""
    heartbeat, timings = seen.heartbeat, situation.timings
    if heartbeat is None or heartbeat.pending_ms < timings.stuck_ms:
        return None
    waits = f'the quorum heartbeat of "{writer.name}" has waited for {heartbeat.pending_ms} ms'
    needed = situation.voters.others_needed(writer.name)
    advancing = [node for node in _followers(situation, writer) if node.wal_received_age_ms < timings.veto_ms]
    if needed and len(advancing) >= needed:
        return Finding(Diagnosis.COMMIT_STUCK, f"{waits}, but its WAL still reaches {tell_names(advancing)}: slow, not dead")
    others = situation.voters_beside(writer.name)
    settled = [node for node in others if _is_settled(situation, node)]
    if len(settled) < needed:
        absent = [node for node in others if node not in settled]
        return Finding(
            Diagnosis.COMMIT_STUCK,
            f"{waits}: {needed} of the other voters must acknowledge, and {tell_names(absent)} cannot",
        )
    hindrance = why_disks_are_slow(situation, writer, others)
    if hindrance is not None:
        return Finding(Diagnosis.COMMIT_STUCK, f"{waits}, but {hindrance}")
    return Finding(Diagnosis.COMMIT_STUCK, f"{waits}, and no WAL reaches {tell_names(settled)}", failed=True, is_soft=True)


def _is_settled(situation: Situation, node: NodeView) -> bool:
    """Return whether the node says something of the writer by not streaming from it.

    A standby that has not streamed since it runs may be unable to; only one that did stream does.
    """
    timings = situation.timings
    return (
        is_running(node)
        and node.name in situation.fresh
        and node.running_for_ms >= timings.settled_ms
        and node.not_streaming_for_ms < node.running_for_ms - timings.fresh_ms
    )


def _followers(situation: Situation, writer: NodeView) -> list[NodeView]:
    """Return the other voters that are told to follow the writer."""
    return [
        node
        for node in situation.voters_beside(writer.name)
        if node.observation is not None
        and node.observation.receiver is not None
        and node.observation.receiver.upstream == writer.name
    ]


def _witnesses_who_lost_it(situation: Situation, writer: NodeView) -> list[NodeView]:
    """Return the other voters that get nothing from the writer, if they are a majority of the other voters; else none."""
    others = situation.voters_beside(writer.name)
    witnesses = [node for node in others if has_lost_writer(node, situation.timings)]
    return witnesses if len(witnesses) * 2 > len(others) else []
