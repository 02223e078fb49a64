"""The manager dies before and after every single action of a bootstrap, a failover and a switchover; all end well."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from cluster_manager.decision.view import Request, RequestKind
from tests.sim.cluster import Cluster, wait_until

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
    process.ask(Request(kind=RequestKind.SWITCHOVER, asked_at_ms=cluster.world.now))


SCENARIOS: dict[str, Callable[[Cluster], None] | None] = {
    "bootstrap": None,
    "killed postmaster": _kill,
    "machine away for 3 s": _power_off,
    "switchover": _hand_over,
}


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_the_manager_may_die_at_any_action(scenario: str, *, after: bool) -> None:
    """The next manager finishes what this one began, and nothing that was acknowledged is lost."""
    at = 0
    while True:
        at += 1
        begin = SCENARIOS[scenario]
        cluster = Cluster(SEED, None, size=3, managers=1)
        cluster.net.unreliable = False
        manager = cluster.managers[0]
        if begin is not None:
            assert wait_until(cluster, cluster.world.now + 20_000.0, cluster.is_healthy)
            manager.actions = 0
            begin(cluster)
        manager.crash_at = at, after
        cluster.world.run_until(cluster.world.now + 1500.0)
        well = wait_until(cluster, cluster.world.now + WELL_WITHIN_MS, cluster.is_healthy)
        assert well, f"death {'after' if after else 'before'} action {at}: {cluster.diagnoses()}\n{cluster.world.trace()}"
        cluster.acknowledged_writes.at_the_end()
        if manager.crash_at is not None:
            break
    assert at > 5
