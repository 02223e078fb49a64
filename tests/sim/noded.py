"""One simulated noded process from its start to its death: it takes up what it finds, and watches over it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from noded import promise as rules
from noded.promise import Work
from pgtopology.node import Role
from pgtopology.orders import (
    StopMode,
)
from pgtopology.timeline import Timeline
from tests.sim.switches import Switch
from tests.sim.world import Waits

if TYPE_CHECKING:
    from tests.sim.node import SimNode

from tests.sim.machine import ROUND_MS, Facts
from tests.sim.obedience import Obedience


class Noded(Obedience):
    """One noded process."""

    def __init__(self, host: SimNode, pid: int) -> None:
        super().__init__(host, pid)
        host.checks.state_changed(host.name, self.state.promised, (self.state.seen.epoch, self.state.seen.revision))
        self.world.spawn(self, self._take_up(), self._begin_rounds)

    def bury(self) -> None:
        """PostgreSQL ended, and nobody ordered it."""
        self._end_heartbeat()
        self.facts = Facts()
        if self.pg.life is None:
            self.unexpected_exit = True
            promotion = self.state.promotion
            if self.broken is Switch.STARTS_AS_PRIMARY and promotion is not None and rules.may_remain_primary(self.state):
                self.configure(rules.writer_configuration(self.state))
                self.pg.start(primary_of=promotion.epoch)
        self.poke()

    def _take_up(self) -> Waits:
        pg = self.pg
        yield self.world.jitter(20, 150)
        yield self.turn
        try:
            work = self.state.work
            if work in (Work.INIT, Work.CLONE):
                self._stop_now()
                if self.broken is Switch.WIPED_COUNTS and pg.exists:
                    self.store(replace(self.state, work=None))
                else:
                    pg.clear()
                    self.store(rules.no_data(self.state))
            if work is not None:
                self.problem = f"an earlier {work} was interrupted"
            if not pg.exists:
                if self.state.system_identifier is not None:
                    self.problem = "the data directory is gone"
                    self.store(rules.no_data(self.state))
                return
            if pg.life is not None:
                yield from self._adopted()
            elif self.state.wanted and self.state.work is None:
                self.start()
        finally:
            self.turn.release()

    def _adopted(self) -> Waits:
        pg, state = self.pg, self.state
        if not state.wanted or state.work is not None:
            yield from self._stop(StopMode.FAST)
            return
        deadline = self.world.now + 1000
        while pg.life is not None and not pg.life.ready and self.world.now < deadline:
            yield 5.0
        may_remain = rules.may_remain_primary(state, Timeline(pg.timeline) if not pg.standby_signal else None)
        configuration = rules.standby_configuration(state)
        role = yield from self._role()
        if role is Role.PRIMARY and may_remain:
            self.configure(rules.writer_configuration(state))
            pg.reload()
        elif self.broken is Switch.PROMISE_WITHOUT_STOP and role is Role.PRIMARY:
            return
        elif configuration.upstream is None or role is Role.PRIMARY:
            self.promoting = may_remain
            yield from self._cut(stop_mode=StopMode.IMMEDIATE)
            self.promoting = False
        else:
            self.configure(configuration)
            pg.reload()

    def _begin_rounds(self, _: object) -> None:
        self.taken_up = True
        self.world.after(0.0, self, self._round)
        self.world.after(self.world.jitter(0, 100), self, self._watch_wholeness)
        self.poke()

    def _round(self) -> None:
        self.poke()
        self._correct_strange_hands()
        life = self.pg.life
        if life is not None and life.frozen and life.ready:
            if self.deaf_since_ms is None:
                self.deaf_since_ms = self.world.now
        else:
            self.deaf_since_ms = None
        if self.facts.role is Role.PRIMARY and not self.turn.held:
            promotion = self.state.promotion
            if promotion is not None and rules.may_remain_primary(self.state, Timeline(self.facts.timeline)):
                self._begin_heartbeat(promotion.epoch)
            elif self.broken is not Switch.PROMISE_WITHOUT_STOP:
                self.world.spawn(self, self._end_usurper())
        self.world.after(ROUND_MS, self, self._round)

    def _correct_strange_hands(self) -> None:
        """Write our file anew if somebody else has written it (S11)."""
        if self.pg.conf_by_hand and not self.turn.held and self.broken is not Switch.STRANGE_HANDS:
            self.configure(self.written)
            self.pg.reload()

    def _end_usurper(self) -> Waits:
        yield self.turn
        try:
            if self.facts.role is not Role.PRIMARY or self.pg.life is None:
                return
            self.world.say("{}: was promoted by nobody's order and is stopped", self.host.name)
            self._end_heartbeat()
            whole = self.state.whole and self.broken is not Switch.FOREIGN_FOLLOWS
            self.store(replace(self.state, following=None, whole=whole))
            yield from self._stop(StopMode.IMMEDIATE)
            self.start()
        finally:
            self.turn.release()

    def _watch_wholeness(self) -> None:
        self.world.after(100.0, self, self._watch_wholeness)
        state, facts, pg = self.state, self.facts, self.pg
        following = state.following
        if state.whole or state.work is not None or state.incarnation is None or following is None:
            self.mark = None
            return
        if pg.life is None or not facts.streaming:
            return
        if self.mark is None or self.mark[0] != following:
            peer = pg.peers[following.upstream.name]
            reachable = not self.host.net.is_cut(self.host.name, peer.node) and not self.host.net.is_cut(
                peer.node, self.host.name
            )
            if reachable and peer.life is not None and not peer.life.frozen and peer.life.role is Role.PRIMARY:
                self.mark = following, peer.timeline, peer.flushed
            return
        _, timeline, end = self.mark
        if facts.timeline != timeline or facts.end < end:
            if facts.timeline > timeline:
                self.mark = None
            return
        if rules.is_newest_upstream(state, following):
            self.store(replace(state, whole=True))
            self.world.say("{}: data {} is whole", self.host.name, state.incarnation)
            self.host.checks.data_lost(self.host)
            self.poke()
