"""The heartbeat and the observations of a simulated noded, as `noded.heartbeat`, `observe` and `reporter` make them."""

from __future__ import annotations

from noded.disksync import STARVED_S
from noded.promise import Work
from pgtopology.epoch import NO_EPOCH, Epoch
from pgtopology.node import Role
from pgtopology.observation import Activity, DiskSync, Heartbeat, Observation, Postmaster, PostmasterState, Receiver, Walsender
from pgtopology.timeline import Timeline
from tests.sim.machine import Facts, Machine
from tests.sim.processes import lsn_of
from tests.sim.switches import Switch

_ACTIVITIES = {Work.INIT: Activity.INITIALISING, Work.CLONE: Activity.CLONING, Work.REWIND: Activity.REWINDING}


class Reporter(Machine):
    """Beats while the node is the writer, and tells what it sees."""

    def _begin_heartbeat(self, epoch: Epoch) -> None:
        if self.beat_epoch != epoch:
            self._end_heartbeat()
            self.beat_epoch = epoch
            self._beat(self._beating)

    def _end_heartbeat(self) -> None:
        self._beating += 1
        self.beat_epoch = self.beat_acknowledged_ms = self.beat_begun_ms = self.beat_pending_ms = self.beat_end = None

    def _beat(self, beating: int) -> None:
        life = self.pg.life
        if beating != self._beating or self.beat_epoch is None:
            return
        if life is None or life.role is not Role.PRIMARY or life.frozen or life.promoting:
            self.beat_pending_ms = self.beat_pending_ms or (self.world.now if life is not None else None)
            self.world.after(50.0, self, self._beat, beating)
            return
        self.beat_pending_ms = began = self.world.now

        made: list[tuple[int, int]] = []

        def acknowledged() -> None:
            self.host.checks.acknowledged(*made[0], self.host.name, life.epoch)
            self.world.after(0.3, self, self._beat_returned, beating, began, made[0][1])

        made.append(self.pg.commit(acknowledged))

    def _beat_returned(self, beating: int, began: float, end: int) -> None:
        if beating != self._beating:
            return
        if not self._is_copied(end):
            self.world.after(20.0, self, self._beat_returned, beating, began, end)
            return
        goes_on = self.beat_acknowledged_ms is not None and self.world.now - began < 200.0
        self.beat_pending_ms = None
        self.beat_acknowledged_ms, self.beat_begun_ms = self.world.now, began
        self.beat_end = self.pg.flushed
        if not goes_on:
            self.poke()
        self.world.after(max(0.0, began + 200.0 - self.world.now), self, self._beat, beating)

    def _tried(self, now: float) -> DiskSync:
        """Return how long the disk takes, once no WAL has come for as long as the real noded waits."""
        if self.facts.end != self.grew_to:
            self.grew_to, self.grew_ms = self.facts.end, now
        tried_ms = now - self.grew_ms - STARVED_S * 1000
        took_ms = self.pg.fsync_ms
        if tried_ms <= 0:
            return DiskSync()
        return DiskSync(last_ms=int(took_ms)) if tried_ms >= took_ms else DiskSync(pending_ms=int(tried_ms))

    def _is_copied(self, end: int) -> bool:
        """Return whether enough other voters show *end* flushed, whatever the list in force says (S1, S14)."""
        voters, life = self.state.in_force, self.pg.life
        if self.broken is Switch.LONE_HEARTBEAT:
            return True
        if voters is None or life is None:
            return False
        others = {voter.sync_name for voter in voters.members if voter.name != self.host.name}
        flushed = {sender.name for sender in life.senders if sender.name in others and sender.flush >= end}
        return len(flushed) >= voters.others_needed(self.host.name)

    def poke(self) -> None:
        """Something has changed: tell it soon."""
        if not self._publishing:
            self._publishing = True
            self.world.after(self.world.jitter(1, 4), self, self._publish)

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
            return
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
        now, state, facts, life = self.world.now, self.state, self.facts, self.pg.life
        self.sequence += 1
        if life is None:
            pm_state = PostmasterState.STOPPED
        else:
            pm_state = PostmasterState.RUNNING if life.ready else PostmasterState.STARTING
        following = state.following
        known = facts.timeline > 0
        activity = _ACTIVITIES[self.work] if self.work is not None else Activity.IDLE
        heartbeat = None
        if self.beat_epoch is not None:
            heartbeat = Heartbeat(
                epoch=self.beat_epoch,
                acknowledged_age_ms=int(now - self.beat_acknowledged_ms) if self.beat_acknowledged_ms is not None else None,
                begun_age_ms=int(now - self.beat_begun_ms) if self.beat_begun_ms is not None else None,
                pending_ms=int(now - self.beat_pending_ms) if self.beat_pending_ms is not None else 0,
                lsn=lsn_of(self.beat_end) if self.beat_end is not None else None,
            )
        return Observation(
            node=state.node,
            noded_pid=self.pid,
            sequence=self.sequence,
            system_identifier=state.system_identifier,
            incarnation=state.incarnation,
            whole=state.whole,
            foreign=state.foreign,
            promised=state.promised,
            seen=state.seen,
            promoted_epoch=state.promotion.epoch if state.promotion is not None else None,
            activity=Activity.PROMOTING if self.promoting and self.work is None else activity,
            problem=self.problem,
            postmaster=Postmaster(
                state=pm_state,
                pid=life.pid if life is not None else None,
                exit_status=None,
                unexpected_exit=self.unexpected_exit,
                deaf_ms=int(now - self.deaf_since_ms) if self.deaf_since_ms is not None else 0,
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
            heartbeat=heartbeat,
            walsenders=facts.senders,
            synchronous_standby_names=facts.names,
            sync=self._tried(now) if facts.role is Role.STANDBY else None,
            data_dir="",
            desired_version=state.desired.version,
        )
