"""What the cluster would survive now, and whether it is stuck already. Pure; decides nothing and is shown to people.

A loss is survived if afterwards, without anybody's help, somebody is the writer and commits are acknowledged: who is lost does
not count, the writer least of all.  The manager and the proxies are not counted: another manager, or none, changes no writer.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from cluster_manager.decision.diagnose import Diagnosis, Finding
from cluster_manager.decision.nodeview import NodeView
from cluster_manager.decision.observed_members import node_state
from cluster_manager.decision.situation import Situation, login_problems, survey, survivors
from cluster_manager.decision.suspicion import tell
from cluster_manager.decision.view import View
from pgtopology.document import Durability, Topology
from pgtopology.node import NodeName, NodeState
from pgtopology.observation import Port

UNANSWERED_MS = 3000
"""A quorum that has acknowledged nothing for so long does not answer: five times what a slow disk may cost a heartbeat."""

STALLED_MS = 8000
"""A transition that has not ended after so long is stuck: the slowest step of one that goes well takes 3 s."""

NO_ROOM_BYTES = 16 << 20
"""One WAL segment of the usual size: with less no server goes on."""

CRASHES_MAX = 3
"""A PostgreSQL that ended by itself so often in a row since its start cannot be counted upon."""

KEPT_DOWN = "is kept down by an operator"

NO_CLUSTER = "there is no cluster yet"


@dataclass(frozen=True, slots=True)
class Prospect:
    """Whether a loss would be survived."""

    survived: bool
    because: str


@dataclass(frozen=True, slots=True)
class Prospects:
    """The three kinds of loss."""

    server_crash: Prospect
    """Of the writer's server, PostgreSQL and noded."""
    host_loss: Prospect
    """Of any one host, with all nodes that have its address."""
    zone_loss: Prospect
    """Of any one zone, with all hosts that have a node in it."""


def prospects(view: View, finding: Finding) -> Prospects:
    """Return what would be survived now."""
    situation = survey(view)
    if situation is None:
        return _none_survived(NO_CLUSTER)
    already = _stuck(situation, finding)
    writer = situation.document.writer
    if already is not None or writer is None:
        return _none_survived(already or "there is no writer at this moment")
    why_not = _obstacle_or_login(situation, (writer,) if writer in situation.nodes else ())
    crash = Prospect(why_not is None, why_not or f'another voter takes over from "{writer}"')
    hosts = {node.spec.address.host: _on_hosts(view, {node.spec.address.host}) for node in view.nodes}
    zones = {
        zone: _on_hosts(view, {node.spec.address.host for node in view.nodes if node.spec.zone == zone})
        | {node.name for node in view.nodes if node.spec.zone == zone}
        for zone in dict.fromkeys(node.spec.zone for node in view.nodes)
    }
    return Prospects(crash, _of_each(situation, "host", hosts), _of_each(situation, "zone", zones))


def _none_survived(because: str) -> Prospects:
    lost = Prospect(False, because)
    return Prospects(lost, lost, lost)


def _on_hosts(view: View, hosts: Collection[str]) -> set[NodeName]:
    return {node.name for node in view.nodes if node.spec.address.host in hosts}


def _of_each(situation: Situation, kind: str, places: dict[str, set[NodeName]]) -> Prospect:
    """Return whether the loss of any one of *places* would be survived."""
    for place, lost in places.items():
        if len(lost) == len(situation.nodes):
            return Prospect(False, f'{kind} "{place}" has every node' + (" on its hosts" if kind == "zone" else ""))
    for place, lost in places.items():
        why_not = _obstacle_or_login(situation, lost)
        if why_not is not None:
            return Prospect(False, f'without {kind} "{place}" ({", ".join(sorted(lost))}): {why_not}')
    return Prospect(True, f"of {len(places)} {kind}s")


def _obstacle_or_login(situation: Situation, lost: Collection[NodeName]) -> str | None:
    """Return why commits would not go on by themselves without *lost*, or cannot be promised to, or None."""
    voters = situation.voters
    why_not = obstacle_after(situation, lost)
    if why_not is not None or situation.document.writer not in lost:
        return why_not
    failing = {name: why for name, why in login_problems(situation, spared=False).items() if name not in lost}
    left = sum(voter.name not in lost for voter in voters.members) - len(failing)
    if left >= max(voters.safe_set_size, voters.w):
        return None
    return f"a login fails that a failover may need: {tell(failing)}"


def obstacle_after(situation: Situation, lost: Collection[NodeName], *, though_paused: bool = False) -> str | None:
    """Return why commits would not go on by themselves without *lost*, or None; *though_paused*: but for a pause."""
    writer = situation.document.writer
    if writer is not None and writer not in lost:
        return _too_few_stream(situation, writer, lost)
    why_not = _no_failover(situation, lost)
    if why_not is None and situation.document.paused and not though_paused:
        return "no failover would happen by itself: it is paused (`endpointctl resume`)"
    return why_not


def _too_few_stream(situation: Situation, writer: NodeName, lost: Collection[NodeName]) -> str | None:
    """Return why the commits of *writer* would wait without *lost*, or None."""
    needed = situation.voters.others_needed(writer)
    left = [node for node in situation.voters_beside(writer) if node.name not in lost]
    streaming = [node.name for node in left if node_state(node, situation.view) is NodeState.STREAMING]
    if len(streaming) >= needed:
        return None
    names = ", ".join(streaming) or "none of them"
    return f'commits would wait: "{writer}" needs {needed} of the other voters, and {names} would be left'


def _no_failover(situation: Situation, lost: Collection[NodeName]) -> str | None:
    """Return why nobody else could lead, and acknowledge, without *lost*, or None."""
    document, voters = situation.document, situation.voters
    if len(voters.members) == 1:
        return f'no failover is possible: "{voters.names[0]}" is the only voter (durability {document.durability})'
    able = [voter.name for voter in situation.promisable if voter.name not in lost]
    unfit = {name: why for name in able if (node := situation.node(name)) is not None and (why := unfitness(node)) is not None}
    unfit |= {name: why for name in able if (why := _finds_no_quorum(situation, name, {*lost, *unfit})) is not None}
    missing = {name: why for name, why in situation.missing.items() if name not in lost} | unfit
    fit = [name for name in able if name not in unfit]
    needed = max(voters.safe_set_size, voters.w)
    if len(fit) < needed:
        who = tell(missing) or f"{len(voters.members)} vote"
        return f"no failover would be possible: {len(fit)} of the {needed} voters needed could promise; {who}"
    serving = fit_to_serve(document, fit)
    if len(serving) < voters.w:
        down = tell({name: KEPT_DOWN for name in fit if name not in serving})
        return f"commits would wait after a failover: {len(serving)} of the {voters.w} voters needed could acknowledge; {down}"
    return None


def fit_to_serve(document: Topology, names: Iterable[NodeName]) -> tuple[NodeName, ...]:
    """Return those of *names* that would acknowledge commits: whoever an operator keeps down promises, and stays down."""
    return tuple(name for name in names if (member := document.member(name)) is None or not member.stopped)


def unfitness(node: NodeView) -> str | None:
    """Return why a node that could promise could not serve, or None."""
    observation = node.observation
    if observation is None:
        return None
    if observation.disk is not None and observation.disk.free_bytes < NO_ROOM_BYTES:
        return f"has {observation.disk.free_bytes >> 20} MB free on its disk"
    if observation.crashes >= CRASHES_MAX:
        return f"its PostgreSQL ended {observation.crashes} times in a row"
    return None


def _finds_no_quorum(situation: Situation, name: NodeName, lost: Collection[NodeName]) -> str | None:
    """Return why nobody would acknowledge the commits of the voter *name*, if it led without *lost*, or None.

    Whoever has no slot there cannot stream from it. It could be elected all the same: only its WAL decides about that.
    """
    seen = situation.heard.get(name)
    if seen is None or not seen.slots_lacking:
        return None
    able = [voter for voter in situation.promisable if voter.name not in (name, *lost)]
    serving = fit_to_serve(situation.document, [voter.name for voter in able if voter.sync_name not in seen.slots_lacking])
    if len(serving) >= situation.voters.others_needed(name):
        return None
    return f"lacks the slots {', '.join(seen.slots_lacking)}, and as the writer would find no quorum"


def without_slots(situation: Situation) -> dict[str, str]:
    """Return the voters beside the writer that might be elected, and would find no quorum for want of others' slots."""
    beside = [node.name for node in situation.voters_beside(situation.document.writer or "")]
    return {name: why for name in beside if (why := _finds_no_quorum(situation, name, ())) is not None}


def without_room(view: View) -> dict[str, str]:
    """Return the nodes on whose disk no server can go on, and how much is left."""
    return {
        node.name: f"has {node.observation.disk.free_bytes >> 20} MB free on its disk"
        for node in view.nodes
        if node.is_heard(view.timings)
        and node.observation is not None
        and node.observation.disk is not None
        and node.observation.disk.free_bytes < NO_ROOM_BYTES
    }


def stuck(view: View, finding: Finding) -> str | None:
    """Return why nobody's commits are acknowledged and for how long, and the way out; None while they are, or soon will be."""
    if finding.diagnosis is Diagnosis.STORE_BEHIND:
        return finding.reason
    situation = survey(view)
    return _stuck(situation, finding) if situation is not None else None


def _stuck(situation: Situation, finding: Finding) -> str | None:
    if finding.diagnosis is Diagnosis.STORE_BEHIND:
        return finding.reason
    why = _no_writer(situation, finding) if situation.document.writer is None else unanswered(situation)
    is_held_back = finding.diagnosis is Diagnosis.PAUSED and finding.cause is not None
    hopeless = is_held_back or finding.diagnosis in (Diagnosis.NO_SAFE_SET, Diagnosis.NO_CANDIDATE)
    if why is None and hopeless:
        why = finding.reason
    elif why is not None and finding.diagnosis is not Diagnosis.HEALTHY:
        why = f"{why}: {finding.reason}"
    return f"{why}; {_way_out(situation, finding)}" if why is not None else None


def _no_writer(situation: Situation, finding: Finding) -> str | None:
    since_ms = stalled_ms(situation)
    if since_ms is None or finding.diagnosis is Diagnosis.BOOTSTRAPPING:
        return None
    return f"no writer for {since_ms / 1000:.0f} s"


def stalled_ms(situation: Situation) -> float | None:
    """Return for how long there has been no writer, if a transition does not come to its end, or None.

    Replay that goes on excuses the first candidate only: each of the later ones has replayed a little when it started.
    """
    view, document = situation.view, situation.document
    if document.transition is None:
        return None
    since_ms = view.now_ms - view.transition_began_at_ms
    candidate = situation.node(document.candidate.node) if document.candidate is not None else None
    replays = candidate is not None and candidate.replay_advanced_age_ms < situation.timings.replay_progress_ms
    is_first = document.transition.first_epoch == document.epoch
    return since_ms if since_ms >= STALLED_MS and not (replays and is_first) else None


def unanswered(situation: Situation) -> str | None:
    """Return that the published writer's quorum does not answer, or nobody reaches the writer; None if that is not known."""
    view, writer = situation.view, situation.writer
    if writer is None:
        return None
    seen = situation.fresh.get(writer.name)
    if seen is None:
        gone = writer.age_ms >= UNANSWERED_MS and view.now_ms - view.started_at_ms >= UNANSWERED_MS
        reached = writer.port is Port.ANSWERS or any(
            node.wal_received_age_ms < situation.timings.silence_ms for node in view.nodes if node is not writer
        )
        return f'nobody has heard "{writer.name}" for {_seconds(writer.age_ms)}' if gone and not reached else None
    heartbeat, clients = seen.heartbeat, seen.connections
    if heartbeat is None or heartbeat.epoch != situation.document.epoch:
        return None
    age_ms = max(heartbeat.pending_ms, heartbeat.acknowledged_age_ms or 0)
    if age_ms < UNANSWERED_MS:
        return None
    error = f" ({heartbeat.error})" if heartbeat.error is not None else ""
    waiting = ""
    if clients is not None and clients.waiting:
        waiting = f", and {clients.waiting} of {clients.limit} connections wait for it"
    return f'the quorum has acknowledged no commit of "{writer.name}" for {_seconds(age_ms)}{error}{waiting}'


def _seconds(age_ms: float) -> str:
    return f"{age_ms / 1000:.0f} s" if age_ms < float("inf") else "any time since this manager began"


def _way_out(situation: Situation, finding: Finding) -> str:
    """Return what an operator can do."""
    document = situation.document
    if document.paused and finding.cause is not None:
        return "automatic failover is paused: `endpointctl resume`, or `endpointctl failover`"
    if not situation.has_safe_set:
        back = f"bring back {' or '.join(situation.missing)}" if situation.missing else "bring a voter back"
        if not survivors(situation):
            return back
        return f"{back}, or give them up for good: `endpointctl failover --allow-data-loss {document.cluster}`"
    if document.transition is not None:
        return "`endpointctl failover` begins another attempt; `endpointctl explain` tells what each node answers"
    if document.durability is Durability.ASYNC:
        return "look at its disk and its log: nobody else has its commits"
    return "`endpointctl explain` tells what each node answers; `endpointctl failover` gives the writer up"
