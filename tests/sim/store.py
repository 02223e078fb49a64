"""The simulated store: one document behind compare-and-swap, and a lease; both may be out of reach."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cluster_manager.loop.effects import WriteDesired
from pgtopology.desired_nodes import DesiredNodes
from pgtopology.document import Topology
from pgtopology.epoch import Revision
from tests.sim.checks import Checks
from tests.sim.network import Network
from tests.sim.switches import Switch
from tests.sim.world import Owner, World

HOST = "store"
LEASE_MS = 1500.0
ANSWER_MS = 600.0
"""After this a caller gives up; what became of its write it does not know."""


class SimStore:
    """The one linearizable thing."""

    __slots__ = ("broken", "checks", "desired", "document", "held_until_ms", "history", "holder", "net", "world")

    def __init__(self, world: World, net: Network, checks: Checks, broken: Switch | None = None) -> None:
        self.broken = broken
        self.world = world
        self.net = net
        self.checks = checks
        self.document: Topology | None = None
        self.desired: DesiredNodes | None = None
        self.history: list[Topology] = []
        self.holder: str | None = None
        self.held_until_ms = 0.0

    def ask(self, host: str, owner: Owner, question: Callable[[], Any], answer: Callable[[Any], None]) -> None:
        """Have *question* asked of the store; *answer* gets what it returns, or the string "unavailable"."""
        done: list[bool] = []

        def at_store() -> None:
            result = question()
            if not self.net.is_cut(HOST, host):
                self.world.after(self.world.jitter(0.2, 1.5), owner, back, result)

        def back(result: Any) -> None:
            if not done:
                done.append(True)
                answer(result)

        def give_up() -> None:
            back("unavailable")

        if not self.net.is_cut(host, HOST):
            slow = self.world.jitter(30, 300) if self.world.rng.random() < 0.02 else self.world.jitter(0.5, 4)
            self.world.after(slow, None, at_store)
        self.world.after(ANSWER_MS, owner, give_up)

    def write(self, new: Topology, expected: Revision | None) -> bool:
        """Compare and swap."""
        stored = self.document.revision if self.document is not None else None
        if stored != expected and self.broken is not Switch.BLIND_WRITES:
            return False
        self.checks.overwritten, self.document = self.document, new
        self.history.append(new)
        self.checks.written(new)
        return True

    def write_desired(self, wanted: WriteDesired) -> bool:
        """Compare and swap the record of desired nodes."""
        if (self.desired.revision if self.desired is not None else None) != wanted.expected:
            return False
        self.desired = wanted.record
        return True

    def acquire(self, host: str, *, renewed: bool) -> bool:
        """Take the lease, or renew it; one that has run out cannot be renewed, for somebody may have held it since."""
        now = self.world.now
        runs = now < self.held_until_ms
        if (renewed and not (runs and self.holder == host)) or (runs and self.holder not in (None, host)):
            return False
        self.holder, self.held_until_ms = host, now + LEASE_MS
        return True

    def roll_back(self, to: Topology | None) -> None:
        """Somebody restored an old copy, or removed it."""
        self.document = to
        self.checks.rolled_back = True
