"""The manager dies before and after every single action of every kind of transition; all end well."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from cluster_manager.decision.actions import ActionKind
from cluster_manager.decision.request import Request, RequestKind
from tests.sim.cluster import Cluster, wait_until
from tests.sim.faults import Faults

SEED = 11
WELL_WITHIN_MS = 40_000.0


def _kill(cluster: Cluster) -> None:
    writer = cluster.writer()
    assert writer is not None
    writer.pg.crash()


def _power_off(cluster: Cluster) -> None:
    writer = cluster.writer()
    assert writer is not None
    writer.power_off()
    cluster.world.after(3000.0, None, writer.boot)


def _hand_over(cluster: Cluster) -> None:
    process = cluster.managers[0].process
    assert process is not None
    process.ask(Request(kind=RequestKind.SWITCHOVER))


def _grow_a_tail(cluster: Cluster) -> None:
    """The writer goes on alone, is replaced, and has to be rewound."""
    writer = cluster.writer()
    assert writer is not None
    others = [*(name for name in cluster.nodes if name != writer.name), *cluster.managers_names]
    links = [link for other in others for link in ((writer.name, other), (other, writer.name))]
    for link in links:
        cluster.net.cut(*link, reset=True)
    for _ in range(20):
        writer.pg.chatter()

    def mend() -> None:
        for link in links:
            cluster.net.mend(*link)

    cluster.world.after(2500.0, None, mend)


def _lose_data(cluster: Cluster) -> None:
    """A voter's disk is replaced."""
    node = next(node for node in cluster.nodes.values() if node is not cluster.writer())
    node.wipe()
    cluster.world.after(100.0, None, node.boot)


def _promote_by_hand(cluster: Cluster) -> None:
    """Somebody promotes a voter."""
    next(node for node in cluster.nodes.values() if node is not cluster.writer()).pg.promote(0)


def _replace_a_voter(cluster: Cluster) -> None:
    """A voter leaves, and an empty node comes in its place."""
    _repeat(cluster, lambda: Faults(cluster).remove_node())


def _stop_a_node(cluster: Cluster) -> None:
    """A standby is stopped, and started again."""
    _repeat(cluster, lambda: Faults(cluster).stop_node())


def _repeat(cluster: Cluster, order: Callable[[], None]) -> None:
    """Give an order again until it was taken and written: it dies with the manager that took it."""
    before = sum(1 for document in cluster.store.history if any(m.leaving or m.stopped for m in document.members))

    def give() -> None:
        if before == sum(1 for document in cluster.store.history if any(m.leaving or m.stopped for m in document.members)):
            order()
            cluster.world.after(700.0, None, give)

    give()


@dataclass(frozen=True)
class Scenario:
    """What happens to a cluster that is well, and how large it is."""

    begin: Callable[[Cluster], None] | None
    size: int = 3
    kinds: frozenset[ActionKind] = frozenset()
    """What the managers must have done, each."""


def _kinds(*kinds: ActionKind) -> frozenset[ActionKind]:
    return frozenset(kinds)


_FAILOVER = (ActionKind.PROMISE, ActionKind.PROMOTE, ActionKind.FOLLOW)
SCENARIOS = {
    "bootstrap": Scenario(None, kinds=_kinds(ActionKind.INIT, ActionKind.PROMOTE, ActionKind.CLONE, ActionKind.SYNCHRONOUS)),
    "killed postmaster": Scenario(_kill, kinds=_kinds(*_FAILOVER)),
    "machine away for 3 s": Scenario(_power_off, kinds=_kinds(*_FAILOVER)),
    "switchover": Scenario(_hand_over, kinds=_kinds(*_FAILOVER, ActionKind.CHECKPOINT)),
    "diverged writer": Scenario(_grow_a_tail, kinds=_kinds(*_FAILOVER, ActionKind.REWIND)),
    "a voter's data is gone": Scenario(_lose_data, kinds=_kinds(ActionKind.CLONE, ActionKind.SYNCHRONOUS)),
    "a voter promoted by hand": Scenario(_promote_by_hand, kinds=_kinds(ActionKind.CLONE)),
    "a voter is replaced": Scenario(_replace_a_voter, size=5, kinds=_kinds(ActionKind.SYNCHRONOUS, ActionKind.CLONE)),
    "a node is stopped": Scenario(_stop_a_node, kinds=_kinds(ActionKind.STOP)),
}


def test_every_kind_of_action_is_died_at() -> None:
    """A new kind needs a scenario; a restart is only ever an operator's, and there are no settings to be told here."""
    never = {ActionKind.RESTART, ActionKind.CONFIGURE}
    assert frozenset.union(*(scenario.kinds for scenario in SCENARIOS.values())) == frozenset(ActionKind) - never


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_the_manager_may_die_at_any_action(scenario: str, *, after: bool) -> None:
    """The next manager finishes what this one began, and nothing that was acknowledged is lost."""
    at, kinds = 0, set[str]()
    begin, size, expected = SCENARIOS[scenario].begin, SCENARIOS[scenario].size, SCENARIOS[scenario].kinds
    while True:
        at += 1
        cluster = Cluster(SEED, None, size=size, managers=1)
        cluster.net.unreliable = False
        manager = cluster.managers[0]
        if begin is not None:
            assert wait_until(cluster, cluster.world.now + 20_000.0, cluster.is_healthy)
            manager.actions = 0
            manager.kinds.clear()
            begin(cluster)
        manager.crash_at = at, after
        cluster.world.run_until(cluster.world.now + 1500.0)
        well = wait_until(cluster, cluster.world.now + WELL_WITHIN_MS, cluster.is_healthy)
        assert well, f"death {'after' if after else 'before'} action {at}: {cluster.diagnoses()}\n{cluster.world.trace()}"
        cluster.acknowledged_writes.at_the_end()
        kinds |= manager.kinds
        if manager.crash_at is not None:
            break
    assert at > 2
    assert expected <= kinds
