"""Long work of a simulated noded on its data: made anew, cloned, rewound, each interruptible at any moment."""

from __future__ import annotations

from msgspec.structs import replace

from noded import promise as rules
from noded.promise import Work
from pgtopology.epoch import Revision
from pgtopology.node import Incarnation, Role
from pgtopology.orders import (
    StopMode,
    Upstream,
)
from tests.sim.machine import SYSTEM_IDENTIFIER
from tests.sim.processes import TIMEOUT_MS
from tests.sim.reporter import Reporter
from tests.sim.switches import Switch
from tests.sim.world import Waits


class Copies(Reporter):
    """One long work at a time."""

    def _begin_work(self, work: Work, doing: Waits) -> None:
        self.work, self.problem = work, None
        self.world.spawn(self, doing, self._work_ended)
        self.poke()

    def _work_ended(self, problem: str | None) -> None:
        if problem:
            self.problem = problem
            self.world.say("{}: {} failed: {}", self.host.name, self.work, problem)
        else:
            self.world.say("{}: {} done, {} records", self.host.name, self.work, len(self.pg.wal))
        self.work = None
        self.poke()

    def _initialise(self) -> Waits:
        self.store(rules.begin(self.state, Work.INIT))
        yield self.world.jitter(100, 300)
        self.pg.make()
        bound = rules.new_data(self.state, self._draw_incarnation(), SYSTEM_IDENTIFIER)
        self.store(replace(rules.finish(bound, whole=True), wanted=True))
        yield from self._start_after_work()
        return None

    def _clone(self, source: Upstream) -> Waits:
        yield self.turn
        self._stop_now()
        self.turn.release()
        incarnation = self._draw_incarnation()
        kept = self.state.incarnation
        if not (yield from self._source_stays(source, self.world.jitter(150, 1200))):
            return "clone failed: the source went away"
        self.pg.put(*self.host.pg.peers[source.name].snapshot())
        yield self._fsync_ms()
        self.store(rules.finish(rules.new_data(self.state, incarnation, SYSTEM_IDENTIFIER)))
        if self.broken is Switch.WIPED_COUNTS:
            self.store(replace(self.state, whole=True, incarnation=kept or incarnation))
        self.host.checks.data_lost(self.host)
        yield from self._start_after_work()
        return None

    def _rewind(self, source: Upstream, revision: Revision) -> Waits:
        yield self.turn
        yield from self._stop(StopMode.FAST)
        self.turn.release()
        peer = self.host.pg.peers[source.name]
        if not (yield from self._source_stays(source, self.world.jitter(20, 80), primary=True)):
            return "rewind failed: the source cannot be used"
        peer.checkpoint_now()
        if peer.timeline != self.pg.timeline:
            if not (yield from self._source_stays(source, self.world.jitter(60, 500), primary=True)):
                return "rewind failed: the source went away"
            self.pg.put_rewound(*peer.snapshot(), missing=self.world.rng.randint(0, 3))
            self.host.checks.data_lost(self.host)
        yield self._fsync_ms()
        done = rules.rewound(self.state, revision)
        self.store(replace(done, whole=True) if self.broken is Switch.WIPED_COUNTS else done)
        yield from self._start_after_work()
        return None

    def _source_stays(self, source: Upstream, duration_ms: float, *, primary: bool = False) -> Waits:
        """Copy from *source* for so long; return whether it lived and could be reached."""
        peer, net, name = self.host.pg.peers[source.name], self.host.net, self.host.name
        life, end = peer.life, self.world.now + duration_ms
        unreachable_ms = 0.0
        while True:
            if life is None or life.dead or not life.ready or (primary and life.role is not Role.PRIMARY):
                return False
            if life.frozen or net.is_cut(name, source.name) or net.is_cut(source.name, name):
                unreachable_ms += 20.0
                end += 20.0
                if unreachable_ms > TIMEOUT_MS:
                    return False
            elif self.world.now >= end:
                return True
            yield 20.0

    def _start_after_work(self) -> Waits:
        yield self.turn
        if self.pg.life is None and self.state.wanted:
            self.start()
        self.turn.release()

    def _draw_incarnation(self) -> Incarnation:
        return Incarnation(f"{self.world.rng.getrandbits(24):06x}")
