"""Commits on a simulated PostgreSQL: flush, replay, and synchronous replication as its source does it.

A commit is acknowledged when a walsender, by the list *it* has read, finds enough listed walsenders that flushed it; backends
do not wait at all while the checkpointer has not read a list.
"""

from __future__ import annotations

from collections.abc import Callable

from pgtopology.node import Role
from tests.sim.datadir import DataDirectory
from tests.sim.processes import Life, Sender


class Committing(DataDirectory):
    """Writes, flushes, replays and acknowledges."""

    __slots__ = ()

    def commit(self, on_acknowledged: Callable[[], None]) -> tuple[int, int]:
        """Make one commit on a primary; return (record id, its end)."""
        life = self.life
        assert life is not None
        end = self._generate()
        life.pending.append((end, on_acknowledged))
        self._flush(life)
        return self.wal[end - 1], end

    def chatter(self) -> None:
        """Write WAL that no commit waits for, as vacuum does."""
        if self.life is not None and self.life.role is Role.PRIMARY:
            self._generate()
            self._flush(self.life)

    def _flush(self, life: Life) -> None:
        if not life.flushing:
            life.flushing = True
            delay_ms = self.fsync_ms * (0.5 + self.world.rng.random())
            self.world.after(delay_ms, life, self._flush_done, life, len(self.wal))

    def _flush_done(self, life: Life, end: int) -> None:
        life.flushing = False
        self.flushed = max(self.flushed, min(end, len(self.wal)))
        if len(self.wal) > self.flushed:
            self._flush(life)
        for sender in life.senders:
            self._pump(life, sender)
        if life.role is Role.PRIMARY:
            flushed, life.pending = (
                [p for p in life.pending if p[0] <= self.flushed],
                [p for p in life.pending if p[0] > self.flushed],
            )
            if life.sync_defined:
                life.waiting.extend(flushed)
                for sender in life.senders:
                    self._release_by(life, sender)
            else:
                for position, acknowledged in flushed:
                    self._acknowledge(life, position, acknowledged, by_hand=life.by_hand)
            return
        receiver = life.receiver
        if receiver is not None and receiver.streaming and receiver.sender is not None:
            peer = self.peers[receiver.upstream]
            if self.flushed > 0 and peer.life is not None:
                self.checks.acknowledges_stream(self.node, peer.life.epoch if peer.life.role is Role.PRIMARY else None)
                self.net.stream(receiver.up, peer.life, peer.flush_reply, receiver.sender, self.flushed)
        self._replay(life)

    def _replay(self, life: Life) -> None:
        self.world.after(self.world.jitter(0.2, 2), life, self._replay_done, life)

    def _replay_done(self, life: Life) -> None:
        if life.role is not Role.STANDBY or not life.at_end or life.replayed >= self.flushed:
            return
        if self.world.now < life.stalled_until_ms:
            self.world.after(life.stalled_until_ms - self.world.now, life, self._replay_done, life)
            return
        life.replayed = self.flushed

    def flush_reply(self, sender: Sender, flush: int) -> None:
        """A standby says how far it has flushed."""
        life = self.life
        if sender.gone or life is None or sender not in life.senders:
            return
        sender.flush = max(sender.flush, flush)
        if life.role is Role.PRIMARY:
            self._release_by(life, sender)

    def _release_by(self, life: Life, sender: Sender) -> None:
        """SyncRepReleaseWaiters, in the walsender *sender*."""
        needed, listed = sender.names
        if not needed or sender.name not in listed or not life.waiting:
            return
        flushed = [s.flush for s in life.senders if s.name in s.names[1]]
        if self.by_name and life.senders:
            flushed.append(self.flushed)  # somebody's pg_receivewal that calls itself like a voter
        flushed.sort(reverse=True)
        if len(flushed) >= needed:
            self._release(life, flushed[needed - 1])

    def _release(self, life: Life, end: int, *, by_hand: bool = False) -> None:
        if not life.waiting:
            return
        released = [w for w in life.waiting if w[0] <= end]
        if released:
            life.waiting = [w for w in life.waiting if w[0] > end]
            for position, acknowledged in released:
                self._acknowledge(life, position, acknowledged, by_hand=by_hand)

    def _acknowledge(self, life: Life, position: int, acknowledged: Callable[[], None], *, by_hand: bool) -> None:
        """A commit becomes visible, and whoever waits for it is told."""
        life.visible = max(life.visible, position)
        if not by_hand:
            life.proven = max(life.proven, position)
        self.lets_pass = by_hand
        acknowledged()
        self.lets_pass = False

    def _pump(self, life: Life, sender: Sender) -> None:
        if sender.sent < self.flushed and sender.to.life is not None and not sender.gone:
            start, sender.sent = sender.sent, self.flushed
            self.net.stream(
                sender.down, sender.to.life, sender.to.receive, sender.receiver, start, self.wal[start : self.flushed],
                self.timelines,
            )  # fmt: skip
