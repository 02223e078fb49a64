"""The heartbeat and the observations of a simulated noded, as `noded.report.heartbeat`, `observe` and `reporter` make them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from noded.report.sync_trial import STARVED_S
from pgtopology import observation
from pgtopology.epoch import NO_EPOCH, Epoch
from pgtopology.node import Role
from pgtopology.observation import DiskSync, Observation, Postmaster, PostmasterState, Receiver, Walsender
from pgtopology.timeline import Timeline
from tests.sim.processes import lsn_of
from tests.sim.switches import Switch

if TYPE_CHECKING:
    from tests.sim.noded import Noded


class Heartbeat:
    """Beats while the node is the writer."""

    def __init__(self, noded: Noded) -> None:
        self.noded = noded
        self.host = noded.host
        self.world = noded.world
        self.pg = noded.pg
        self.epoch: Epoch | None = None
        self.acknowledged_ms: float | None = None
        self.begun_ms: float | None = None
        self.pending_ms: float | None = None
        self.lsn: int | None = None
        self._beating = 0

    def begin(self, epoch: Epoch) -> None:
        """Beat from now on for *epoch*."""
        if self.epoch != epoch:
            self.end()
            self.epoch = epoch
            self._beat(self._beating)

    def end(self) -> None:
        """Stop."""
        self._beating += 1
        self.epoch = self.acknowledged_ms = self.begun_ms = self.pending_ms = self.lsn = None

    def report(self) -> observation.Heartbeat | None:
        """Return what the observation says of it."""
        if self.epoch is None:
            return None
        now = self.world.now
        return observation.Heartbeat(
            epoch=self.epoch,
            acknowledged_age_ms=int(now - self.acknowledged_ms) if self.acknowledged_ms is not None else None,
            begun_age_ms=int(now - self.begun_ms) if self.begun_ms is not None else None,
            pending_ms=int(now - self.pending_ms) if self.pending_ms is not None else 0,
            lsn=lsn_of(self.lsn) if self.lsn is not None else None,
        )

    def _beat(self, beating: int) -> None:
        life = self.pg.life
        if beating != self._beating or self.epoch is None:
            return
        if life is None or life.role is not Role.PRIMARY or life.frozen or life.promoting:
            self.pending_ms = self.pending_ms or (self.world.now if life is not None else None)
            self.world.after(50.0, self.noded, self._beat, beating)
            return
        self.pending_ms = began = self.world.now

        made: list[tuple[int, int]] = []

        def acknowledged() -> None:
            self.host.checks.acknowledged(*made[0], self.host.name, life.epoch)
            self.world.after(0.3, self.noded, self._returned, beating, began, made[0][1])

        made.append(self.pg.commit(acknowledged))

    def _returned(self, beating: int, began: float, end: int) -> None:
        if beating != self._beating:
            return
        if not self._is_copied(end):
            self.world.after(20.0, self.noded, self._returned, beating, began, end)
            return
        goes_on = self.acknowledged_ms is not None and self.world.now - began < 200.0
        self.pending_ms = None
        self.acknowledged_ms, self.begun_ms = self.world.now, began
        self.lsn = self.pg.flushed
        if not goes_on:
            self.noded.reporter.poke()
        self.world.after(max(0.0, began + 200.0 - self.world.now), self.noded, self._beat, beating)

    def _is_copied(self, end: int) -> bool:
        """Return whether enough other voters show *end* flushed, whatever the list in force says (S1, S14)."""
        voters, life = self.noded.state.in_force, self.pg.life
        if self.host.broken is Switch.LONE_HEARTBEAT:
            return True
        if voters is None or life is None:
            return False
        others = {voter.sync_name for voter in voters.members if voter.name != self.host.name}
        flushed = {sender.name for sender in life.senders if sender.name in others and sender.flush >= end}
        return len(flushed) >= voters.others_needed(self.host.name)


class Facts:
    """What a round of gathering found."""

    __slots__ = ("end", "names", "replayed", "role", "running", "senders", "streaming", "timeline", "written")

    def __init__(self) -> None:
        self.role = Role.NONE
        self.timeline = 0
        self.end = 0
        self.written = 0
        self.replayed = 0
        self.running = False
        self.streaming = False
        self.names: str | None = None
        self.senders: tuple[Walsender, ...] = ()


class Reporter:
    """Tells what the noded sees."""

    def __init__(self, noded: Noded) -> None:
        self.noded = noded
        self.host = noded.host
        self.world = noded.world
        self.pg = noded.pg
        self.sequence = 0
        self.facts = Facts()
        self.unexpected_exit = False
        self._deaf_since_ms: float | None = None
        self._mute_since_ms: float | None = None
        self._grew_to = 0
        self._grew_ms = 0.0
        self._publishing = False

    def forget(self) -> None:
        """PostgreSQL is gone, by order, or another one begins: nothing that was found out holds."""
        self.facts = Facts()
        self._mute_since_ms = None
        self.unexpected_exit = False

    def knock(self) -> None:
        """Try PostgreSQL's door as a new client would."""
        life = self.pg.life
        if life is None or not life.frozen or not life.ready:
            self._deaf_since_ms = None
        elif self._deaf_since_ms is None:
            self._deaf_since_ms = self.world.now

    def mute_ms(self) -> int:
        """Return for how long a PostgreSQL that accepts connections has answered nothing since its start."""
        return int(self.world.now - self._mute_since_ms) if self._mute_since_ms is not None else 0

    def _tried(self, now: float) -> DiskSync:
        """Return how long the disk takes, once no WAL has come for as long as the real noded waits."""
        if self.facts.end != self._grew_to:
            self._grew_to, self._grew_ms = self.facts.end, now
        tried_ms = now - self._grew_ms - STARVED_S * 1000
        took_ms = self.pg.fsync_ms
        if tried_ms <= 0:
            return DiskSync()
        return DiskSync(last_ms=int(took_ms)) if tried_ms >= took_ms else DiskSync(pending_ms=int(tried_ms))

    def poke(self) -> None:
        """Something has changed: tell it soon."""
        if not self._publishing:
            self._publishing = True
            self.world.after(self.world.jitter(1, 4), self.noded, self._publish)

    def _publish(self) -> None:
        self._publishing = False
        self._gather()
        observation = self.compose()
        for tell in self.host.subscribers.values():
            tell(observation)

    def _gather(self) -> None:
        pg, life, facts = self.pg, self.pg.life, self.facts
        if life is None:
            self.facts = Facts()
            return
        if life.frozen:
            if life.ready and facts.role is Role.NONE and self._mute_since_ms is None:
                self._mute_since_ms = self.world.now
            return
        self._mute_since_ms = None
        facts = Facts()
        receiver = life.receiver
        facts.running = receiver is not None
        if not life.ready:
            facts.role = self.facts.role
            facts.streaming = receiver is not None and receiver.streaming
            self.facts = facts
            return
        facts.role = life.role
        facts.names = life.names_shown
        if life.senders:
            facts.senders = tuple(
                Walsender(
                    name=s.name,
                    slot=s.slot,
                    streaming=True,
                    flush_lsn=lsn_of(s.flush),
                    replay_lsn=lsn_of(s.flush),
                    sync_priority=1 if s.name in s.names[1] else 0,
                )
                for s in life.senders
            )
        if life.role is Role.PRIMARY:
            facts.end = pg.flushed
            facts.timeline = pg.timeline
        else:
            facts.end = max(min(life.streamed, pg.flushed), life.replayed)
            facts.timeline = max(t for t, begin in pg.timelines if begin <= facts.end)
            facts.replayed = life.replayed
            facts.written = life.streamed
            facts.streaming = receiver is not None and receiver.streaming
        self.facts = facts

    def compose(self) -> Observation:
        """Return what is known."""
        now, state, facts, life = self.world.now, self.noded.state, self.facts, self.pg.life
        memory = self.noded.memory
        self.sequence += 1
        if life is None:
            pm_state = PostmasterState.STOPPED
        else:
            pm_state = PostmasterState.RUNNING if life.ready else PostmasterState.STARTING
        following = state.following
        known = facts.timeline > 0
        return Observation(
            node=state.node,
            noded_pid=self.noded.pid,
            sequence=self.sequence,
            system_identifier=state.system_identifier,
            incarnation=state.incarnation,
            whole=state.whole,
            foreign=state.foreign,
            promised=state.promised,
            seen=state.seen,
            promoted_epoch=state.promotion.epoch if state.promotion is not None else None,
            activity=memory.activity,
            problem=memory.blocked or memory.problem,
            quarantined=memory.blocked is not None,
            mute_ms=self.mute_ms(),
            postmaster=Postmaster(
                state=pm_state,
                pid=life.pid if life is not None else None,
                exit_status=None,
                unexpected_exit=self.unexpected_exit,
                deaf_ms=int(now - self._deaf_since_ms) if self._deaf_since_ms is not None else 0,
            ),
            role=facts.role if life is not None else Role.NONE,
            timeline=Timeline(facts.timeline) if known else None,
            wal_end=lsn_of(facts.end) if known else None,
            replayed_lsn=lsn_of(facts.replayed) if known and facts.role is Role.STANDBY else None,
            receiver=Receiver(
                running=facts.running,
                streaming=facts.streaming,
                upstream=following.upstream.name if following is not None else None,
                upstream_epoch=following.epoch if following is not None else NO_EPOCH,
                written_lsn=lsn_of(facts.written) if facts.streaming else None,
            )
            if life is not None and facts.role is not Role.PRIMARY
            else None,
            heartbeat=self.noded.heartbeat.report(),
            walsenders=facts.senders,
            synchronous_standby_names=facts.names,
            sync=self._tried(now) if facts.role is Role.STANDBY else None,
            data_dir="",
            desired_version=state.desired.version,
        )
