"""The store goes back to where an epoch was recruiting, and only the candidate of the lost history knows that it was one."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.sim.cluster import Cluster, wait_until
from tests.sim.store import ANSWER_MS

WELL_WITHIN_MS = 40_000.0


@pytest.mark.parametrize("seed", range(8))
def test_a_claim_that_only_its_candidate_knows_of_is_not_made_again(seed: int) -> None:
    cluster = Cluster(seed, None, size=3, managers=1)
    cluster.net.unreliable = False
    manager, store = cluster.managers[0], cluster.store
    assert wait_until(cluster, 20_000.0, cluster.is_healthy)
    former = cluster.writer()
    assert former is not None
    former.power_off()
    assert _until(
        cluster, lambda: store.document is not None and store.document.candidate is not None and not store.document.writer
    )
    recruiting, claimed = store.history[-2:]
    assert claimed.candidate is not None
    candidate, timeline = cluster.nodes[claimed.candidate.node], claimed.candidate.timeline
    other = next(node for node in cluster.nodes.values() if node not in (former, candidate))
    # The claim's orders reach nobody but the candidate, and nobody hears of it.
    links = [(name, other.name) for name in (manager.name, candidate.name)]
    links += [(candidate.name, manager.name), (candidate.name, former.name), (other.name, candidate.name)]
    for link in links:
        cluster.net.cut(*link, reset=True)
    assert _until(cluster, lambda: candidate.pg.timeline == timeline), "promoted"
    manager.crash()
    cluster.world.run_until(cluster.world.now + ANSWER_MS + 50.0)
    store.roll_back(recruiting)
    cluster.net.mend(manager.name, other.name)
    former.boot()
    manager.start()
    assert wait_until(cluster, cluster.world.now + WELL_WITHIN_MS, lambda: cluster.writer() is not None), cluster.diagnoses()
    writer = cluster.writer()
    assert writer is not None
    assert writer is not candidate
    assert writer.pg.timeline != timeline
    for link in links[1:]:
        cluster.net.mend(*link)
    assert wait_until(cluster, cluster.world.now + WELL_WITHIN_MS, cluster.is_healthy), cluster.diagnoses()
    cluster.acknowledged_writes.at_the_end()


def _until(cluster: Cluster, is_met: Callable[[], bool]) -> bool:
    """Let time pass in the smallest steps until *is_met*; return whether it ever was."""
    end_ms = cluster.world.now + WELL_WITHIN_MS
    while not is_met() and cluster.world.now < end_ms:
        cluster.world.run_until(cluster.world.now + 0.1)
    return is_met()
