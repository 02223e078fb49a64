"""Streaming between simulated PostgreSQLs: receivers and senders, their connections and how those break.

The WAL receiver is a process apart from the configuration: it is requested by the startup process with the upstream that one
has read, reads the password when it is launched, and streams whatever anybody thinks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pgtopology.node import Role
from tests.sim.committing import Committing
from tests.sim.processes import RETRY_MS, TIMEOUT_MS, Life, Receiver, Sender, parse_names

if TYPE_CHECKING:
    from tests.sim.postgres import Postgres


class Streaming(Committing):
    """Asks for WAL, and gives it."""

    __slots__ = ()

    def _want_receiver(self, life: Life) -> None:
        """The startup process asks for a receiver, with the upstream it has read."""
        if life.role is not Role.STANDBY or life.requested or life.receiver is not None or not life.at_end:
            return
        if life.upstream is None or life.promoting:
            return
        if self.world.now < life.stalled_until_ms:
            self.world.after(life.stalled_until_ms - self.world.now, life, self._want_receiver, life)
            return
        life.requests += 1
        life.requested = life.requests
        world = self.world
        delay_ms = world.jitter(80, 900) if world.rng.random() < 0.03 else world.jitter(0.5, 4)
        world.after(delay_ms, life, self._launch, life, life.upstream, life.requests)

    def _launch(self, life: Life, upstream: str, request: int) -> None:
        """The postmaster launches it; libpq reads the password now."""
        if life.requested != request:
            return
        life.requested = 0
        if life.role is not Role.STANDBY or life.receiver is not None or life.promoting:
            return
        if life.replayed < len(self.wal):
            # The startup process reads local WAL to its end before it asks for more.
            self.world.after(10.0, life, self._want_receiver, life)
            return
        life.receiver = receiver = Receiver(self.node, upstream)
        peer = self.peers[upstream]
        self.world.after(TIMEOUT_MS, life, self._connect_timeout, life, receiver)
        # The password file names the upstream it is for, so that a late receiver finds none for another.
        if self.password_for != upstream or peer.life is None or not peer.life.ready:
            self.world.after(2.0, life, self.receiver_lost, life, receiver)
        elif not self.net.is_cut(upstream, self.node):
            self.net.stream(receiver.up, peer.life, peer.accept, peer.life, receiver, self)

    def _connect_timeout(self, life: Life, receiver: Receiver) -> None:
        if not receiver.streaming and not receiver.gone:
            self.receiver_lost(life, receiver)

    def accept(self, life: Life, receiver: Receiver, to: Postgres) -> None:
        """A receiver asks to stream from where its WAL ends."""
        if receiver.gone or to.life is None or to.life.receiver is not receiver:
            return
        forked = self._end_of(to.timelines)
        if forked is None or len(to.wal) > forked:
            self.world.after(1.0, to.life, to.receiver_lost, to.life, receiver)
            return
        sender = Sender(to.sync_name, receiver, to, self.node, parse_names(self.conf_names))
        sender.sent = len(to.wal)
        life.senders.append(sender)
        receiver.sender = sender
        self.net.stream(sender.down, to.life, to.begin_streaming, to.life, receiver)
        self._pump(life, sender)

    def _end_of(self, timelines: list[tuple[int, int]]) -> int | None:
        """Return where our history leaves the asker's newest timeline; only numbers are compared, as PostgreSQL does."""
        asked = timelines[-1][0]
        for index, (timeline, _) in enumerate(self.timelines):
            if timeline == asked:
                return self.timelines[index + 1][1] if index + 1 < len(self.timelines) else self.flushed
        return None

    def begin_streaming(self, life: Life, receiver: Receiver) -> None:
        """The first answer of the walsender."""
        if receiver.gone or life.receiver is not receiver:
            return
        receiver.streaming = True
        self.flushed = max(self.flushed, 0)
        sender = receiver.sender
        peer = self.peers[receiver.upstream]
        if sender is not None and peer.life is not None:
            self.checks.acknowledges_stream(self.node, peer.life.epoch if peer.life.role is Role.PRIMARY else None)
            self.net.stream(receiver.up, peer.life, peer.flush_reply, sender, self.flushed)

    def receive(self, receiver: Receiver, start: int, records: list[int], timelines: list[tuple[int, int]]) -> None:
        """WAL arrives."""
        life = self.life
        if life is None or receiver.gone or life.receiver is not receiver or life.role is not Role.STANDBY:
            return
        if start != len(self.wal):
            self.receiver_lost(life, receiver)
            return
        self.wal.extend(records)
        end = len(self.wal)
        newest = self.timeline
        known = {timeline for timeline, _ in self.timelines}
        for timeline, begin in timelines:
            if timeline > newest and timeline not in known and begin <= end:
                self.timelines.append((timeline, begin))
        life.streamed = end
        self._flush(life)

    def receiver_lost(self, life: Life, receiver: Receiver) -> None:
        """The receiver's connection broke, or it was told to end."""
        if life.receiver is receiver and not receiver.gone:
            self._end_receiver(life, receiver)
            self.world.after(RETRY_MS, life, self._want_receiver, life)

    def _end_receiver(self, life: Life, receiver: Receiver) -> None:
        receiver.gone = True
        receiver.streaming = False
        receiver.up.broken = True
        if not life.dead and len(self.wal) > self.flushed:
            self.flushed = len(self.wal)  # a dying receiver flushes, and tells nobody
            self._replay(life)
        life.receiver = None
        sender = receiver.sender
        peer = self.peers[receiver.upstream]
        if sender is not None and not sender.gone and peer.life is not None:
            delay_ms = TIMEOUT_MS if self.net.is_cut(self.node, receiver.upstream) else 1.0
            self.world.after(delay_ms, peer.life, peer.sender_lost, peer.life, sender)

    def sender_lost(self, life: Life, sender: Sender) -> None:
        """The walsender's connection broke."""
        if not sender.gone and sender in life.senders:
            self._end_sender(life, sender)

    def _end_sender(self, life: Life, sender: Sender) -> None:
        sender.gone = True
        sender.down.broken = True
        life.senders.remove(sender)
        to = sender.to
        if to.life is not None and to.life.receiver is sender.receiver:
            delay_ms = TIMEOUT_MS if self.net.is_cut(self.node, to.node) else 1.0
            self.world.after(delay_ms, to.life, to.receiver_lost, to.life, sender.receiver)

    def bounce_senders(self) -> None:
        """pg_terminate_backend on every walsender."""
        life = self.life
        if life is not None:
            for sender in life.senders[:]:
                self._end_sender(life, sender)

    def signal_receiver(self) -> None:
        """SIGTERM to the receiver."""
        life = self.life
        if life is not None and life.receiver is not None:
            self.world.after(self.world.jitter(0.3, 4), life, self.receiver_lost, life, life.receiver)

    def link_cut(self, source: str, destination: str, reset: bool) -> None:
        """A link was cut: connections over it break now, or when somebody misses a sign of life."""
        life = self.life
        if life is None or self.node not in (source, destination):
            return
        other = destination if source == self.node else source
        delay_ms = self.world.jitter(1, 5) if reset else TIMEOUT_MS
        if life.receiver is not None and life.receiver.upstream == other:
            self.world.after(delay_ms, life, self._still_cut, life, source, destination, life.receiver, None)
        for sender in life.senders:
            if sender.to.node == other:
                self.world.after(delay_ms, life, self._still_cut, life, source, destination, None, sender)

    def _still_cut(self, life: Life, source: str, destination: str, receiver: Receiver | None, sender: Sender | None) -> None:
        if self.net.is_cut(source, destination):
            if receiver is not None:
                self.receiver_lost(life, receiver)
            if sender is not None:
                self.sender_lost(life, sender)
