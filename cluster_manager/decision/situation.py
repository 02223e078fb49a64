"""What the view says of a cluster, derived once: every step of a decision takes this and derives none of it anew.

There is a situation as soon as there are voters; before that only `bootstrap` knows what to do.  So nothing here is absent
for want of a cluster: what is None is so because it is not the case.  Knows no remedy, and nothing of roles: `diagnose` does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from cluster_manager.decision.nodeview import NodeView
from cluster_manager.decision.suspicion import Health, health
from cluster_manager.decision.timings import Timings
from cluster_manager.decision.view import View, slots_of
from pgtopology.document import Topology
from pgtopology.node import NodeName
from pgtopology.observation import Observation
from pgtopology.quorum import Voter, Voters


@dataclass(frozen=True, kw_only=True)
class Situation:
    """A view of a cluster that has voters, and what follows from it whatever is asked next.

    Who could promise is derived when it is first asked for, and kept: a transition that goes well never asks.
    """

    view: View
    """Ages, clocks, and what this manager remembers of its own orders."""
    document: Topology
    voters: Voters
    """The recorded ones."""
    nodes: Mapping[NodeName, NodeView]
    """The configured nodes by name, in the order of the settings."""
    health: Mapping[NodeName, Health]
    """What the age of each node's newest word says of it."""
    heard: Mapping[NodeName, Observation]
    """The newest word of each node that is not silent: it still describes the node."""
    fresh: Mapping[NodeName, Observation]
    """Those of them that may be acted upon (L4)."""
    writer: NodeView | None
    """The published writer; None while there is none, or if it is not among the configured nodes."""

    @property
    def promisable(self) -> tuple[Voter, ...]:
        """The voters that could promise now."""
        return self._promises[0]

    @property
    def missing(self) -> Mapping[str, str]:
        """The other voters, and why each of them could not."""
        return self._promises[1]

    @cached_property
    def has_safe_set(self) -> bool:
        """Whether another writer may be elected among those that could promise: without it nothing is touched (L4)."""
        return self.document.is_safe_set(self.promisable)

    @cached_property
    def slots(self) -> frozenset[str]:
        """What every node keeps for the others: one slot for each member that has data."""
        return frozenset(slots_of(self.document))

    @cached_property
    def _promises(self) -> tuple[tuple[Voter, ...], Mapping[str, str]]:
        """Who could promise, and who could not: a crashed or stopped PostgreSQL is no obstacle, for its noded starts it as a
        standby to learn how far it reaches."""
        able: list[Voter] = []
        missing: dict[str, str] = {}
        for voter in self.voters.members:
            flaw = _why_no_promise(voter, self.nodes.get(voter.name), self.fresh.get(voter.name))
            if flaw is None:
                able.append(voter)
            else:
                missing[voter.name] = flaw
        return tuple(able), missing

    @property
    def timings(self) -> Timings:
        """The manager's patience."""
        return self.view.timings

    def node(self, name: str | None) -> NodeView | None:
        """Return the configured node called *name*, or None."""
        return self.nodes.get(NodeName(name)) if name is not None else None

    def voters_beside(self, name: str) -> list[NodeView]:
        """Return the configured nodes that vote, without the one called *name*."""
        names = self.voters.names
        return [node for node in self.view.nodes if node.name in names and node.name != name]


def survey(view: View) -> Situation | None:
    """Return the situation, or None while there are no voters: no document, or no node has been given data yet."""
    document = view.document
    if document is None or document.voters is None:
        return None
    return situate(view, document, document.voters)


def situate(view: View, document: Topology, voters: Voters) -> Situation:
    """Return the situation that *view* and *document*, whose voters *voters* are, make together."""
    timings = view.timings
    nodes: dict[NodeName, NodeView] = {}
    healths: dict[NodeName, Health] = {}
    heard: dict[NodeName, Observation] = {}
    fresh: dict[NodeName, Observation] = {}
    for node in view.nodes:
        name, seen = node.spec.name, node.observation
        nodes[name] = node
        healths[name] = found = health(node, timings)
        if seen is None or found is Health.SILENT:
            continue
        heard[name] = seen
        if found is Health.ALIVE:
            fresh[name] = seen
    return Situation(
        view=view,
        document=document,
        voters=voters,
        nodes=nodes,
        health=healths,
        heard=heard,
        fresh=fresh,
        writer=nodes.get(document.writer) if document.writer is not None else None,
    )


def _why_no_promise(voter: Voter, node: NodeView | None, seen: Observation | None) -> str | None:
    """Return why the voter could not promise now, or None. *seen* is its word, if it may be acted upon."""
    if node is None:
        return "is not configured"
    if seen is None:
        return f"has not been heard for {_age(node)}"
    if seen.incarnation != voter.incarnation:
        return "has other data than the voter that was recorded"
    if seen.quarantined:
        return "is quarantined"
    if seen.storage_problem is not None:
        return f"cannot make a promise durable: {seen.storage_problem}"
    return None if seen.whole else "is not whole yet"


def login_problems(situation: Situation, *, spared: bool = True) -> dict[str, str]:
    """Return, of each voter on which a login fails that a failover may need, what its noded says of it.

    It can promise all the same, because a promise needs no login; but to open, a writer must be followed and asked. Where
    only the connections are all taken, the sessions that noded holds do for that: not *spared* leaves those nodes out.
    """
    found: dict[str, str] = {}
    for name in situation.voters.names:
        seen = situation.fresh.get(name)
        if seen is not None and seen.login_problem is not None and (spared or not seen.login_spared):
            found[name] = f"says that {seen.login_problem}"
    return found


def survivors(situation: Situation) -> tuple[Voter, ...]:
    """Return who could go on if an operator gave everybody else up: the voters that could promise, else any whole node."""
    if situation.promisable:
        return situation.promisable
    return tuple(
        voter
        for name, seen in situation.fresh.items()
        if seen.whole
        and seen.system_identifier == situation.document.system_identifier
        and (voter := situation.nodes[name].voter()) is not None
    )


def _age(node: NodeView) -> str:
    return "any time since this manager began" if node.observation is None else f"{node.age_ms / 1000:.1f} s"
