"""A noded dies before every kind of effect that it has, in every kind of transition; all end well."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest

from noded.acts import effects
from noded.acts.effects import Effect
from noded.law.promise import Work
from tests.sim.cluster import Cluster, wait_until
from tests.sim.node import SimNode
from tests.sim.test_crash_points import SCENARIOS as OF_MANAGERS
from tests.sim.test_crash_points import SEED, WELL_WITHIN_MS, Scenario

ELSEWHERE = {
    effects.ResumeReplay: "nobody pauses replay here; tests/noded/test_faults.py",
    effects.RenewState: "no state becomes unreadable in these; tests/noded/test_acts.py",
    effects.ForgetPassword: "no promise meets long work in these; tests/noded/test_acts.py",
    effects.WalkWal: "nobody is mute in these; tests/noded/test_acts.py",
    effects.ReloadSettings: "there are no settings to be told here; tests/noded/test_acts.py",
}
"""Effects before which nobody dies here, and what covers them."""


def _restart(cluster: Cluster, node: SimNode, after_ms: float) -> None:
    def restart() -> None:
        node.kill_noded()
        node.boot()

    cluster.world.after(after_ms, None, restart)


def _restart_all_nodeds(cluster: Cluster) -> None:
    """All nodeds end, and what runs is adopted."""
    for node in cluster.nodes.values():
        _restart(cluster, node, 10.0)


def _copy_twice(cluster: Cluster) -> None:
    """A voter's disk is replaced, and its noded ends in the middle of the copy."""
    node = next(node for node in cluster.nodes.values() if node is not cluster.writer())
    node.wipe()
    node.boot()

    def look() -> None:
        if node.state.work is Work.CLONE:
            _restart(cluster, node, 100.0)
        else:
            cluster.world.after(20.0, None, look)

    look()


SCENARIOS = {
    **OF_MANAGERS,
    "five nodes begin": Scenario(None, size=5),
    "all nodeds end": Scenario(_restart_all_nodeds),
    "a copy is interrupted": Scenario(_copy_twice),
}

Kind = type[Effect[Any]]
Doom = Callable[[Effect[Any]], bool]


def play(scenario: str, is_doomed: Doom) -> Cluster:
    """Let nodeds die as *is_doomed* says, and return the cluster when it is well again."""
    begin, size = SCENARIOS[scenario].begin, SCENARIOS[scenario].size
    cluster = Cluster(SEED, None, size=size, managers=1)
    cluster.net.unreliable = False
    if begin is not None:
        assert wait_until(cluster, cluster.world.now + 20_000.0, cluster.is_healthy)
    for node in cluster.nodes.values():
        node.is_doomed = is_doomed
    if begin is not None:
        begin(cluster)
    cluster.world.run_until(cluster.world.now + 1500.0)
    assert wait_until(cluster, cluster.world.now + WELL_WITHIN_MS, cluster.is_healthy), (
        f"{scenario}: {cluster.diagnoses()}\n{cluster.world.trace()}"
    )
    cluster.acknowledged_writes.at_the_end()
    return cluster


@cache
def kinds_in(scenario: str) -> frozenset[Kind]:
    """Return the kinds of effects that occur when nobody dies."""
    kinds: set[Kind] = set()

    def note(effect: Effect[Any]) -> bool:
        kinds.add(type(effect))
        return False

    play(scenario, note)
    return frozenset(kinds)


ALL: tuple[Kind, ...] = tuple(
    kind for kind in vars(effects).values() if isinstance(kind, type) and issubclass(kind, Effect) and kind is not Effect
)


@pytest.mark.parametrize("kind", [kind for kind in ALL if kind not in ELSEWHERE], ids=lambda kind: kind.__name__)
def test_a_noded_may_die_before_an_effect(kind: Kind) -> None:
    """Its successor takes up what it left, the next order goes on, and nothing that was acknowledged is lost."""
    scenarios = [scenario for scenario in SCENARIOS if kind in kinds_in(scenario)]
    assert scenarios
    for scenario in scenarios:
        deaths: list[Effect[Any]] = []

        def once(effect: Effect[Any], deaths: list[Effect[Any]] = deaths) -> bool:
            if deaths or type(effect) is not kind:
                return False
            deaths.append(effect)
            return True

        play(scenario, once)
        assert deaths
