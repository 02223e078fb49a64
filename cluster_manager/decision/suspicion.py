"""Has this node stopped answering, and could it promise?

Pure arithmetic over the ages in a view.  It knows nothing of roles or remedies; `diagnose` does.  One missed observation
proves nothing; three in a row (600 ms) are silence.  A noded whose port refuses is silent like any other: that its
PostgreSQL is gone does not follow (the port probe says that).
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from cluster_manager.decision.nodeview import NodeView, is_flushing, is_fresh
from cluster_manager.decision.timings import Timings
from cluster_manager.decision.view import View
from pgtopology.document import Topology
from pgtopology.observation import PostmasterState
from pgtopology.quorum import Voter


class Health(StrEnum):
    """What the ages of a node's observations say."""

    ALIVE = "alive"
    LATE = "late"
    """Older than what may be acted upon, not yet silence."""
    SILENT = "silent"
    UNSEEN = "unseen"
    """Never heard since this manager began."""


def health(node: NodeView, timings: Timings) -> Health:
    """Return what the age of the node's newest observation says."""
    if node.observation is None:
        return Health.UNSEEN
    if node.age_ms < timings.fresh_ms:
        return Health.ALIVE
    return Health.LATE if node.age_ms < timings.silence_ms else Health.SILENT


def promisable(view: View, document: Topology) -> tuple[tuple[Voter, ...], dict[str, str]]:
    """Return the voters that could promise now, and why each of the others could not.

    A crashed or stopped PostgreSQL is no obstacle: its noded starts it as a standby to learn how far it reaches.
    """
    able: list[Voter] = []
    missing: dict[str, str] = {}
    for voter in document.voters.members if document.voters is not None else ():
        node = view.node(voter.name)
        if node is None:
            missing[voter.name] = "is not configured"
        elif not is_fresh(node, view.timings) or node.observation is None:
            missing[voter.name] = f"has not been heard for {_age(node)}"
        elif node.observation.incarnation != voter.incarnation:
            missing[voter.name] = "has other data than the voter that was recorded"
        elif node.observation.quarantined:
            missing[voter.name] = "is quarantined"
        elif node.observation.storage_problem is not None:
            missing[voter.name] = f"cannot make a promise durable: {node.observation.storage_problem}"
        elif not node.observation.whole:
            missing[voter.name] = "is not whole yet"
        else:
            able.append(voter)
    return tuple(able), missing


def login_problems(view: View, document: Topology, *, spared: bool = True) -> dict[str, str]:
    """Return, of each voter on which a login fails that a failover may need, what its noded says of it.

    It can promise all the same, because a promise needs no login; but to open, a writer must be followed and asked. Where
    only the connections are all taken, the sessions that noded holds do for that: not *spared* leaves those nodes out.
    """
    found: dict[str, str] = {}
    for voter in document.voters.members if document.voters is not None else ():
        node = view.node(voter.name)
        if node is not None and node.observation is not None and is_fresh(node, view.timings):
            problem = node.observation.login_problem
            if problem is not None and (spared or not node.observation.login_spared):
                found[voter.name] = f"says that {problem}"
    return found


def tell(reasons: Mapping[str, str]) -> str:
    """Return, for people, each node of *reasons* with what is said of it."""
    return "; ".join(f'"{name}" {why}' for name, why in reasons.items())


def survivors(view: View, document: Topology) -> tuple[Voter, ...]:
    """Return who could go on if an operator gave everybody else up: the voters that could promise, else any whole node."""
    able, _ = promisable(view, document)
    if able:
        return able
    return tuple(
        voter
        for node in view.nodes
        if is_fresh(node, view.timings)
        and node.observation is not None
        and node.observation.whole
        and node.observation.system_identifier == document.system_identifier
        and (voter := node.voter()) is not None
    )


def has_lost_writer(node: NodeView, timings: Timings) -> bool:
    """Return whether a standby, itself heard, gets nothing from its upstream: no receiver, or no WAL for the time of silence.

    The writer's heartbeat makes WAL flow at least every 200 ms, so its absence means something; but not while a receiver waits
    for its own disk, for it reads nothing meanwhile.
    """
    if not is_fresh(node, timings) or node.observation is None:
        return False
    receiver = node.observation.receiver
    connected = receiver is not None and receiver.running and receiver.streaming
    if connected and is_flushing(node) and node.wal_received_age_ms < timings.unflushed_ms:
        return False
    return not connected or node.wal_advanced_age_ms >= timings.silence_ms


def is_running(node: NodeView) -> bool:
    """Return whether the newest observation says that PostgreSQL runs."""
    return node.observation is not None and node.observation.postmaster.state is PostmasterState.RUNNING


def _age(node: NodeView) -> str:
    return "any time since this manager began" if node.observation is None else f"{node.age_ms / 1000:.1f} s"
