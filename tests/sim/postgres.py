"""One simulated PostgreSQL: WAL as record ids on timelines, recovery, streaming, synchronous replication as its source does it.

What is on disk belongs to `Postgres`, what dies with the processes to `Life`.  A commit is acknowledged when a walsender, by
the list *it* has read, finds enough listed walsenders that flushed it; backends do not wait at all while the checkpointer has
not read a list.  The WAL receiver is a process apart from the configuration: it is requested by the startup process with the
upstream that one has read, reads the password when it is launched, and streams whatever anybody thinks.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache

from pgtopology.lsn import Lsn
from pgtopology.node import Role
from tests.sim.checks import Checks
from tests.sim.network import Network, Stream
from tests.sim.world import Owner, World

SEGMENT = 16
"""Records in a WAL segment."""
TIMEOUT_MS = 2000.0
"""wal_receiver_timeout, wal_sender_timeout."""
RETRY_MS = 100.0
"""wal_retrieve_retry_interval."""


def lsn_of(records: int) -> Lsn:
    """Return the LSN at which a WAL of so many records ends."""
    return Lsn(1000 + records * 100)


@lru_cache(maxsize=4096)
def parse_names(text: str) -> tuple[int, frozenset[str]]:
    """Return how many of whom a synchronous_standby_names asks for."""
    found = re.fullmatch(r"ANY (\d+) \((.*)\)", text)
    if found is None:
        return 0, frozenset()
    return int(found[1]), frozenset(name.strip().strip('"') for name in found[2].split(","))


class Receiver:
    """A walreceiver process."""

    __slots__ = ("gone", "sender", "streaming", "up", "upstream")

    def __init__(self, node: str, upstream: str) -> None:
        self.upstream = upstream
        self.streaming = False
        self.gone = False
        self.sender: Sender | None = None
        self.up = Stream(node, upstream)


class Sender:
    """A walsender process."""

    __slots__ = ("down", "flush", "gone", "name", "names", "receiver", "sent", "slot", "to")

    def __init__(self, name: str, receiver: Receiver, to: Postgres, node: str, names: tuple[int, frozenset[str]]) -> None:
        self.name = name
        self.slot = name
        self.receiver = receiver
        self.to = to
        self.down = Stream(node, to.node)
        self.sent = 0
        self.flush = 0
        self.names = names
        self.gone = False


class Life(Owner):
    """The processes of one postmaster."""

    __slots__ = (
        "at_end",
        "epoch",
        "flushing",
        "frozen_at_ms",
        "names_checkpointer",
        "names_shown",
        "ordered_end",
        "pending",
        "pid",
        "promoting",
        "ready",
        "receiver",
        "replayed",
        "requested",
        "requests",
        "role",
        "senders",
        "stalled_until_ms",
        "streamed",
        "sync_defined",
        "upstream",
        "visible",
        "waiting",
    )

    def __init__(self, pid: int) -> None:
        super().__init__()
        self.pid = pid
        self.role = Role.STANDBY
        self.ready = False
        self.at_end = False
        self.replayed = 0
        self.streamed = 0
        """pg_last_wal_receive_lsn of this life, in records; 0 if nothing came."""
        self.stalled_until_ms = 0.0
        self.upstream: str | None = None
        """As the startup process has read it."""
        self.requested = 0
        self.requests = 0
        self.receiver: Receiver | None = None
        self.senders: list[Sender] = []
        self.names_shown = ""
        self.names_checkpointer = ""
        self.sync_defined = False
        self.flushing = False
        self.pending: list[tuple[int, Callable[[], None]]] = []
        self.waiting: list[tuple[int, Callable[[], None]]] = []
        self.visible = 0
        self.epoch = 0
        self.promoting = False
        self.frozen_at_ms = 0.0
        self.ordered_end = False


class Postgres:
    """One data directory and what runs on it."""

    __slots__ = (
        "_next_pid",
        "checkpoint",
        "checks",
        "conf_names",
        "conf_upstream",
        "control_timeline",
        "exists",
        "flushed",
        "fsync_ms",
        "life",
        "net",
        "node",
        "on_exit",
        "password_for",
        "peers",
        "placeholders",
        "saved_conf",
        "standby_signal",
        "sync_name",
        "timelines",
        "wal",
        "world",
    )

    def __init__(self, world: World, net: Network, checks: Checks, node: str, peers: dict[str, Postgres]) -> None:
        self.world = world
        self.net = net
        self.checks = checks
        self.node = node
        self.peers = peers
        self.on_exit: Callable[[], None] = _nothing
        self.life: Life | None = None
        self.fsync_ms = 1.0
        self._next_pid = 100
        self.exists = False
        self.sync_name = ""
        self.clear()

    # The data directory

    def clear(self) -> None:
        """Have no data."""
        self.exists = False
        self.wal: list[int] = []
        self.timelines: list[tuple[int, int]] = []
        self.flushed = 0
        self.checkpoint = 0
        self.control_timeline = 1
        self.standby_signal = True
        self.placeholders = 0
        self.conf_upstream: str | None = None
        self.conf_names = ""
        self.password_for: str | None = None
        self.saved_conf: tuple[str | None, str, str | None] = (None, "", None)

    def make(self) -> None:
        """initdb."""
        self.clear()
        self.exists = True
        self.timelines = [(1, 0)]
        for _ in range(3):
            self._generate()
        self.flushed = len(self.wal)

    def snapshot(self) -> tuple[list[int], list[tuple[int, int]]]:
        """Return what a copy made now would hold."""
        length = self.flushed
        return self.wal[:length], [entry for entry in self.timelines if entry[1] <= length]

    def put(self, wal: list[int], timelines: list[tuple[int, int]]) -> None:
        """Hold a copy."""
        self.clear()
        self.exists = True
        self.wal, self.timelines = list(wal), list(timelines)
        self.flushed = len(wal)
        self.checkpoint = max(0, len(wal) - 5)
        self.control_timeline = self.timeline

    @property
    def timeline(self) -> int:
        """The newest timeline of the local WAL."""
        return self.timelines[-1][0]

    def configure(self, upstream: str | None, names: str, *, durable: bool = True) -> None:
        """Write the two settings, and the password where it is needed."""
        self.conf_upstream, self.conf_names, self.password_for = upstream, names, upstream
        if durable:
            self.saved_conf = upstream, names, upstream

    def lose_unsynced(self) -> None:
        """The power went: nothing that was not fsynced is left."""
        del self.wal[self.flushed :]
        while len(self.timelines) > 1 and self.timelines[-1][1] > self.flushed:
            self.timelines.pop()
        self.conf_upstream, self.conf_names, self.password_for = self.saved_conf

    # The processes

    def start(self) -> None:
        """Start as a standby (or as what the files say)."""
        assert self.life is None
        self._next_pid += 1
        self.life = life = Life(self._next_pid)
        world = self.world
        self.flushed = len(self.wal)
        self.placeholders = 0
        life.upstream = self.conf_upstream
        life.names_shown = life.names_checkpointer = self.conf_names
        life.sync_defined = bool(self.conf_names)
        life.replayed = min(self.checkpoint, len(self.wal))
        ready_ms = world.jitter(25, 120)
        world.after(ready_ms, life, self._ready, life)
        slow = 10 if world.rng.random() < 0.25 else 1
        world.after(ready_ms + world.jitter(1, 40) * slow, life, self._reach_end, life)

    def _ready(self, life: Life) -> None:
        life.ready = True

    def _reach_end(self, life: Life) -> None:
        if self.world.now < life.stalled_until_ms:
            self.world.after(life.stalled_until_ms - self.world.now, life, self._reach_end, life)
            return
        life.replayed = len(self.wal)
        life.at_end = True
        self._want_receiver(life)

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
        if not life.sync_defined:
            self._release(life, len(self.wal))

    def _backends_read(self, life: Life) -> None:
        life.names_shown = self.conf_names

    def _sender_reads(self, sender: Sender) -> None:
        sender.names = parse_names(self.conf_names)

    # WAL

    def _generate(self) -> int:
        self.checks.records += 1
        record = self.checks.records
        self.wal.append(record)
        self.checks.generated(self.node, self.timeline, len(self.wal), record)
        return len(self.wal)

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
                    life.visible = max(life.visible, position)
                    acknowledged()
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
        flushed = sorted((s.flush for s in life.senders if s.name in s.names[1]), reverse=True)
        if len(flushed) >= needed:
            self._release(life, flushed[needed - 1])

    def _release(self, life: Life, end: int) -> None:
        if not life.waiting:
            return
        released = [w for w in life.waiting if w[0] <= end]
        if released:
            life.waiting = [w for w in life.waiting if w[0] > end]
            for position, acknowledged in released:
                life.visible = max(life.visible, position)
                acknowledged()

    # Streaming

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
        logs_in = self.password_for is not None and (not SCOPED_PASSWORD or self.password_for == upstream)
        if not logs_in or peer.life is None or not peer.life.ready:
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

    def _pump(self, life: Life, sender: Sender) -> None:
        if sender.sent < self.flushed and sender.to.life is not None and not sender.gone:
            start, sender.sent = sender.sent, self.flushed
            self.net.stream(
                sender.down, sender.to.life, sender.to.receive, sender.receiver, start, self.wal[start : self.flushed],
                self.timelines,
            )  # fmt: skip

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

    # Freezing

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

    # Promotion

    def promote(self, epoch: int) -> None:
        """pg_promote: everything received is replayed first."""
        life = self.life
        if life is None or life.role is not Role.STANDBY:
            return
        life.promoting = True
        if life.receiver is not None:
            self._end_receiver(life, life.receiver)
        self.world.after(self.world.jitter(5, 60), life, self._end_recovery, life, epoch)

    def _end_recovery(self, life: Life, epoch: int) -> None:
        if life.role is not Role.STANDBY:
            return
        wait_ms = life.stalled_until_ms - self.world.now
        if wait_ms > 0 or not life.at_end:
            self.world.after(max(5.0, wait_ms), life, self._end_recovery, life, epoch)
            return
        self.flushed = life.replayed = life.visible = len(self.wal)
        timeline = max(self.timeline, self.placeholders) + 1
        self.timelines = [*self.timelines, (timeline, len(self.wal))]
        life.role = Role.PRIMARY
        life.promoting = False
        life.epoch = epoch
        self.standby_signal = False
        self._generate()
        self._flush(life)
        self.world.say("{}: PostgreSQL is primary on timeline {} from record {}", self.node, timeline, len(self.wal) - 1)

    def checkpoint_now(self) -> None:
        """A checkpoint or restartpoint: the control file learns the timeline."""
        if self.exists and self.life is not None:
            self.control_timeline = self.timeline
            self.checkpoint = max(0, min(self.life.replayed or len(self.wal), self.flushed) - 2)


def _nothing() -> None:
    pass


SCOPED_PASSWORD = False
"""Whether the password file names the upstream it is for."""
