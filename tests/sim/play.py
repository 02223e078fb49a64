"""One failover, or one handover, as a text: what every program said, from the blow to the moment at which writers are let in.

Nothing is random here: every delay is the middle of those the simulator draws from, so that a play changes only when what the
programs do changes.  `plays/NAME.txt` is what is expected, and the shortest way to see how a failover goes.

    python -m tests.sim --play failover
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from random import Random

from cluster_manager.decision.request import Request, RequestKind
from tests.sim.cluster import Cluster, wait_until
from tests.sim.node import SimNode
from tests.sim.world import text_of

SETTLED_MS = 20_000.0
PLAYED_MS = 10_000.0


class Middle(Random):
    """Chance that always falls in the middle."""

    def random(self) -> float:
        """Return a half."""
        return 0.5


def _kill(_: Cluster, writer: SimNode) -> None:
    writer.pg.crash()


def _hand_over(cluster: Cluster, _: SimNode) -> None:
    process = cluster.managers[0].process
    assert process is not None
    assert process.ask(Request(kind=RequestKind.SWITCHOVER))


PLAYS: dict[str, tuple[str, Callable[[Cluster, SimNode], None]]] = {
    "failover": ("the postmaster of {} ends", _kill),
    "switchover": ("an operator asks {} to hand over", _hand_over),
}


def _epoch(cluster: Cluster) -> int:
    return cluster.store.document.epoch if cluster.store.document is not None else 0


def play(name: str) -> str:
    """Return the play called *name*: a line for each word, with the milliseconds since the blow."""
    blow, strike = PLAYS[name]
    cluster = Cluster(0, None, size=3, managers=1, chance=Middle(0))
    world = cluster.world
    cluster.net.unreliable = False
    assert wait_until(cluster, SETTLED_MS, cluster.is_healthy), cluster.diagnoses()
    writer, epoch, began_ms = cluster.writer(), _epoch(cluster), world.now
    assert writer is not None
    world.lines = deque()
    world.say(blow, writer.name)
    strike(cluster, writer)

    def is_over() -> bool:
        return all(proxy.table.epoch > epoch and proxy.table.writer is not None for proxy in cluster.proxies)

    while not is_over() and world.now < began_ms + PLAYED_MS:
        world.run_until(world.now + 1.0)
    assert is_over(), world.trace()
    return "".join(f"{line[0] - began_ms:7.1f} ms  {text_of(line).rstrip()}\n" for line in world.lines)
