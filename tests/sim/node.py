"""One simulated host: disks, power, a noded and its PostgreSQL.

What a power failure leaves is `disk`; what a killed noded leaves is `disk` and a running PostgreSQL.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from noded.acts.effects import Effect
from noded.law.promise import State
from pgtopology.node import NodeName
from pgtopology.observation import Observation
from tests.sim.checks import Checks
from tests.sim.network import Network
from tests.sim.noded import Noded
from tests.sim.postgres import Postgres
from tests.sim.switches import Switch
from tests.sim.world import World

CLUSTER = "sim"
RESTART_MS = 300.0
"""After its death a noded is started again."""


class SimNode:
    """A host: disks, power, and whatever runs."""

    def __init__(
        self, world: World, net: Network, checks: Checks, name: NodeName, peers: dict[str, Postgres], broken: Switch | None
    ) -> None:
        self.world = world
        self.net = net
        self.checks = checks
        self.name = name
        self.broken = broken
        self.pg = Postgres(world, net, checks, name, peers)
        self.pg.on_exit = self._pg_exited
        self.pg.by_name = broken is Switch.ACKNOWLEDGED_BY_NAME
        self.disk = State(cluster=CLUSTER, node=name)
        self.unreadable: str | None = None
        """Why the state file cannot be read."""
        self.is_up = True
        self.noded: Noded | None = None
        self.subscribers: dict[str, Callable[[Observation], None]] = {}
        self.is_doomed: Callable[[Effect[Any]], bool] = _lives
        """Whether its noded dies before an effect."""
        self._next_pid = 1
        self.boot()

    @property
    def state(self) -> State:
        """What the noded goes by now."""
        return self.noded.state if self.noded is not None else self.disk

    def boot(self) -> None:
        """Start the noded (and the machine, if it is off)."""
        self.is_up = True
        if self.noded is None:
            self._next_pid += 1
            self.noded = Noded(self, self._next_pid)

    def kill_noded(self) -> None:
        """SIGKILL; PostgreSQL lives on as an orphan."""
        if self.noded is not None:
            self.noded.dead = True
            self.noded = None

    def dies_before(self, effect: Effect[Any]) -> bool:
        """Let the noded die before *effect*, if it is doomed, and be started again; return whether that is so."""
        if not self.is_doomed(effect):
            return False
        self.world.say("{}: noded dies before {}", self.name, type(effect).__name__)
        self.kill_noded()
        self.world.after(RESTART_MS, None, lambda: self.boot() if self.is_up else None)
        return True

    def power_off(self) -> None:
        """Everything stops, and what was not fsynced is gone."""
        self.kill_noded()
        self.is_up = False
        self.pg.stop()
        self.pg.lose_unsynced()
        self.checks.data_lost(self)

    def wipe(self) -> None:
        """The disk of the data directory was replaced; the state beside it lives."""
        self.kill_noded()
        self.pg.stop()
        if self.broken is not Switch.WIPED_COUNTS:
            self.pg.clear()
        else:
            kept = self.world.rng.randint(1, max(1, len(self.pg.wal)))
            self.pg.put(self.pg.wal[:kept], [entry for entry in self.pg.timelines if entry[1] < kept])
        self.checks.data_lost(self)

    def lose_state(self, *, damaged: bool) -> None:
        """The state file is gone, or *damaged*; the data beside it lives, and nobody knows what it has acknowledged."""
        self.kill_noded()
        self.disk = State(cluster=CLUSTER, node=self.name)
        self.unreadable = "the state cannot be read" if damaged else None
        self.checks.replaced(self)

    def replace(self) -> None:
        """Put an empty machine of the same name in the place of this one; it is not switched on yet."""
        self.kill_noded()
        self.is_up = False
        self.pg.stop()
        self.pg.clear()
        self.disk = State(cluster=CLUSTER, node=self.name)
        self.checks.replaced(self)

    def freeze(self) -> None:
        """Freeze the whole machine."""
        if self.noded is not None:
            self.world.freeze(self.noded)
        self.pg.freeze()

    def thaw(self) -> None:
        """Let everything on it go on."""
        if self.noded is not None:
            self.world.thaw(self.noded)
        self.pg.thaw()

    def _pg_exited(self) -> None:
        if self.noded is not None:
            self.world.after(0.3, self.noded, self.noded.bury)


def _lives(_: Effect[Any]) -> bool:
    return False
