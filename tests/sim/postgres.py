"""One simulated PostgreSQL: started, reloaded, frozen, promoted, killed.

What is on disk belongs to `DataDirectory`, what dies with the processes to `Life`.
"""

from __future__ import annotations

from pgtopology.node import Role
from tests.sim.processes import TIMEOUT_MS, Life, Sender, parse_names
from tests.sim.streaming import Streaming


class Postgres(Streaming):
    """One data directory and what runs on it."""

    __slots__ = ()

    def start(self, *, primary_of: int | None = None) -> None:
        """Start as a standby; or, as the law forbids, as the primary of an epoch once more."""
        assert self.life is None
        self._next_pid += 1
        self.life = life = Life(self._next_pid)
        world = self.world
        self.flushed = len(self.wal)
        self.placeholders = 0
        self.shut_down = False
        life.upstream = self.conf_upstream
        life.names_shown = life.names_checkpointer = self.conf_names
        life.sync_defined = bool(self.conf_names)
        life.replayed = min(self.checkpoint, len(self.wal))
        ready_ms = world.jitter(25, 120)
        world.after(ready_ms, life, self._ready, life)
        if primary_of is not None:
            life.epoch, self.standby_signal = primary_of, False
            world.after(ready_ms, life, self._primary_again, life)
        slow = 10 if world.rng.random() < 0.25 else 1
        world.after(ready_ms + world.jitter(1, 40) * slow, life, self._reach_end, life)

    def _ready(self, life: Life) -> None:
        if len(self.wal) >= self.minimum:
            life.ready = True
            return
        self.world.counts["started short of WAL"] += 1
        self.world.after(5.0, life, self._ready_at_last, life)

    def _ready_at_last(self, life: Life) -> None:
        if self.flushed >= self.minimum:
            life.ready = True
        else:
            self.world.after(5.0, life, self._ready_at_last, life)

    def _reach_end(self, life: Life) -> None:
        if self.world.now < life.stalled_until_ms:
            self.world.after(life.stalled_until_ms - self.world.now, life, self._reach_end, life)
            return
        life.replayed = len(self.wal)
        life.at_end = True
        self._want_receiver(life)

    def _primary_again(self, life: Life) -> None:
        """Crash recovery is over: what was in WAL is committed, and seen by everybody."""
        life.role = Role.PRIMARY
        life.replayed = life.visible = life.proven = len(self.wal)
        life.at_end = True

    def stop(self) -> None:
        """SIGKILL to everything; WAL that was written stays in the page cache, WAL in buffers does not."""
        life = self.life
        if life is None:
            return
        life.dead = True
        self.life = None
        if life.role is Role.PRIMARY and len(self.wal) > self.flushed:
            keep = self.world.rng.randint(self.flushed, len(self.wal))
            del self.wal[keep:]
            while len(self.timelines) > 1 and self.timelines[-1][1] > keep:
                self.timelines.pop()
        if life.receiver is not None:
            self._end_receiver(life, life.receiver)
        for sender in life.senders[:]:
            self._end_sender(life, sender)

    def crash(self) -> None:
        """The postmaster and its children end, and nobody ordered it."""
        if self.life is not None:
            self.stop()
            self.on_exit()

    def reload(self) -> None:
        """SIGHUP: each process reads the configuration when it gets to it."""
        life, world = self.life, self.world
        if life is None:
            return
        if world.rng.random() < 0.04:
            life.stalled_until_ms = max(life.stalled_until_ms, world.now + world.jitter(80, 900))
        world.after(world.jitter(0.5, 8), life, self._startup_reads, life)
        world.after(self._reading_ms(), life, self._checkpointer_reads, life)
        world.after(world.jitter(1, 6), life, self._backends_read, life)
        for sender in life.senders:
            world.after(self._reading_ms(), life, self._sender_reads, sender)

    def _reading_ms(self) -> float:
        world = self.world
        return world.jitter(80, 900) if world.rng.random() < 0.04 else world.jitter(0.5, 8)

    def _startup_reads(self, life: Life) -> None:
        if self.world.now < life.stalled_until_ms:
            self.world.after(life.stalled_until_ms - self.world.now, life, self._startup_reads, life)
            return
        if life.role is Role.STANDBY and life.upstream != self.conf_upstream:
            life.upstream = self.conf_upstream
            life.requested = 0  # what was requested and is not launched yet is taken back
            if life.receiver is not None:
                self._end_receiver(life, life.receiver)
            self._want_receiver(life)

    def _checkpointer_reads(self, life: Life) -> None:
        life.names_checkpointer = self.conf_names
        life.sync_defined = bool(self.conf_names)
        life.by_hand = self.conf_by_hand
        if not life.sync_defined:
            self._release(life, len(self.wal), by_hand=life.by_hand)

    def _backends_read(self, life: Life) -> None:
        life.names_shown = self.conf_names

    def _sender_reads(self, sender: Sender) -> None:
        sender.names = parse_names(self.conf_names)

    def freeze(self) -> None:
        """SIGSTOP to all processes; who streams to or from us notices after the timeouts."""
        life = self.life
        if life is None or life.frozen:
            return
        self.world.freeze(life)
        life.frozen_at_ms = self.world.now
        self.world.after(TIMEOUT_MS, None, self._frozen_too_long, life)

    def _frozen_too_long(self, life: Life) -> None:
        if not life.frozen or life.dead or self.world.now - life.frozen_at_ms < TIMEOUT_MS:
            return
        for sender in life.senders:
            to = sender.to
            if to.life is not None and to.life.receiver is sender.receiver:
                self.world.after(0.0, to.life, to.receiver_lost, to.life, sender.receiver)
        receiver = life.receiver
        if receiver is not None and receiver.sender is not None:
            peer = self.peers[receiver.upstream]
            if peer.life is not None:
                self.world.after(0.0, peer.life, peer.sender_lost, peer.life, receiver.sender)

    def thaw(self) -> None:
        """SIGCONT."""
        if self.life is not None:
            self.world.thaw(self.life)

    def stall_startup(self, duration_ms: float) -> None:
        """The startup process does nothing for a while."""
        if self.life is not None:
            self.life.stalled_until_ms = self.world.now + duration_ms

    def promote(self, epoch: int) -> None:
        """pg_promote: everything received is replayed first."""
        life = self.life
        if life is None or life.role is not Role.STANDBY:
            return
        life.promoting = True
        life.epoch = max(life.epoch, epoch)  # of several calls that wait for the same promotion
        if life.receiver is not None:
            self._end_receiver(life, life.receiver)
        self.world.after(self.world.jitter(5, 60), life, self._end_recovery, life)

    def _end_recovery(self, life: Life) -> None:
        if life.role is not Role.STANDBY:
            return
        wait_ms = life.stalled_until_ms - self.world.now
        if wait_ms > 0 or not life.at_end:
            self.world.after(max(5.0, wait_ms), life, self._end_recovery, life)
            return
        self.flushed = life.replayed = life.visible = life.proven = len(self.wal)
        timeline = max(self.timeline, self.placeholders) + 1
        self.timelines = [*self.timelines, (timeline, len(self.wal))]
        life.role = Role.PRIMARY
        life.promoting = False
        self.standby_signal = False
        self._generate()
        self._flush(life)
        self.world.say("{}: PostgreSQL is primary on timeline {} from record {}", self.node, timeline, len(self.wal) - 1)
