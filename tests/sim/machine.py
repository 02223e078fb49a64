"""What a simulated noded is and how it handles its PostgreSQL: durable state, configuration, start, stop, the cut, positions.

The sequences are those of `noded.instance` and `noded.fence`, as tasks of simulated time; the rules are the real ones.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from noded import promise as rules
from noded.promise import State, Work
from pgtopology.epoch import Epoch
from pgtopology.node import Position, Role
from pgtopology.observation import Walsender
from pgtopology.orders import (
    StopMode,
)
from pgtopology.timeline import Timeline
from tests.sim.processes import SEGMENT, lsn_of
from tests.sim.switches import Switch
from tests.sim.world import Lock, Owner, Task, Waits

if TYPE_CHECKING:
    from tests.sim.node import SimNode


ROUND_MS = 200.0
SYSTEM_IDENTIFIER = "7000000000000000001"
CLUSTER = "sim"


class OrderRefused(Exception):  # noqa: N818 - it says what was done
    """An order is not carried out."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class Machine(Owner):
    """Memory and hands of one noded process."""

    def __init__(self, host: SimNode, pid: int) -> None:
        super().__init__()
        self.host = host
        self.world = host.world
        self.pg = host.pg
        self.pid = pid
        self.broken = host.broken
        self.state = host.disk
        self.turn = Lock()
        self.work: Work | None = None
        self.promoting = False
        self.problem: str | None = None
        self.unexpected_exit = False
        self.list_is_proven = False
        self.promotion: Task | None = None
        self.sequence = 0
        self.facts = Facts()
        self.beat_epoch: Epoch | None = None
        self.beat_acknowledged_ms: float | None = None
        self.beat_begun_ms: float | None = None
        self.beat_pending_ms: float | None = None
        self.beat_end: int | None = None
        self.deaf_since_ms: float | None = None
        self.grew_to = 0
        self.grew_ms = 0.0
        self.mark: tuple[Any, int, int] | None = None
        self.taken_up = False
        self.written = rules.standby_configuration(self.state)
        self._publishing = False
        self._beating = 0

    def store(self, state: State) -> None:
        """Make *state* durable, and go by it."""
        before = self.state
        if state == before:
            return
        self.state = state
        if self.broken is Switch.PROMISE_NOT_DURABLE and state.promised > self.host.disk.promised:
            late = self.host.disk
            self.host.disk = replace(state, promised=late.promised, seen=late.seen, following=late.following)
            self.world.after(3000.0, self, self._make_durable)
        else:
            self.host.disk = state
        if (state.promised, state.seen) != (before.promised, before.seen):
            self.host.checks.state_changed(self.host.name, state.promised, (state.seen.epoch, state.seen.revision))

    def _make_durable(self) -> None:
        self.host.disk = self.state

    def configure(self, configuration: rules.Configuration) -> None:
        """Write the two settings."""
        self.written = configuration
        names = configuration.synchronous_standby_names
        if self.broken is Switch.EMPTY_NAMES and self.state.promotion is None:
            names = ""
        upstream = configuration.upstream.name if configuration.upstream is not None else None
        self.pg.sync_name = self.state.sync_name or ""
        self.pg.configure(upstream, names, durable=self.broken is not Switch.CONFIGURATION_NOT_FSYNCED)

    def start(self) -> Position | None:
        """Start as the durable state says, and return where the WAL ends if the files said so before."""
        pg = self.pg
        position = self._position_of_files()
        if not pg.standby_signal and self.broken is not Switch.FOREIGN_FOLLOWS:
            self.store(rules.recovery_ended(self.state, Timeline(pg.timeline)))
        pg.standby_signal = True
        if self.broken is not Switch.CONFIGURATION_NOT_FSYNCED or not pg.conf_names:
            self.configure(rules.standby_configuration(self.state))
            pg.saved_conf = pg.conf_upstream, pg.conf_names, pg.password_for
        pg.sync_name = self.state.sync_name or ""
        self.unexpected_exit = False
        self.facts = Facts()
        pg.start()
        return position

    def _position_of_files(self) -> Position | None:
        """Return where the WAL of a primary ends that was shut down in good order (docs/decisions/0009)."""
        pg = self.pg
        if pg.shut_down:
            return Position(timeline=Timeline(pg.timeline), lsn=lsn_of(len(pg.wal)), replayed_lsn=lsn_of(len(pg.wal)))
        if self.broken is Switch.ANY_CONTROL_FILE:
            end = lsn_of(pg.checkpoint)
            return Position(timeline=Timeline(pg.control_timeline), lsn=end, replayed_lsn=end)
        return None

    def _stop_now(self) -> None:
        self.pg.stop()
        self.facts = Facts()
        self.unexpected_exit = False

    def _stop(self, mode: StopMode) -> Waits:
        pg, life = self.pg, self.pg.life
        in_good_order = False
        if mode is StopMode.FAST and life is not None and life.role is Role.PRIMARY and not life.frozen:
            life.waiting.clear()
            life.pending.clear()
            life.promoting = True  # no new commits
            pg.chatter()
            deadline = self.world.now + 2000
            while self.world.now < deadline and pg.life is life:
                if pg.flushed == len(pg.wal) and all(s.flush >= pg.flushed for s in life.senders):
                    in_good_order = True
                    break
                yield 5.0
        self._stop_now()
        pg.shut_down = in_good_order or (pg.shut_down and life is None)

    def _role(self) -> Waits:
        pg = self.pg
        life = pg.life
        if life is None:
            return Role.NONE
        if not pg.standby_signal:
            return Role.PRIMARY
        if not life.ready:
            return Role.STANDBY
        if life.frozen:
            yield 300.0
            if pg.life is None:
                return Role.NONE
            if pg.life.frozen:
                return Role.PRIMARY
        yield 0.3
        return pg.life.role if pg.life is not None else Role.NONE

    def _is_primary(self) -> Waits:
        role = yield from self._role()
        return self.promoting or role is Role.PRIMARY

    def _cut(self, *, stop_mode: StopMode) -> Waits:
        pg = self.pg
        if pg.life is None:
            return False, self.start()
        promoting = self.promoting
        role = yield from self._role()
        if promoting or role is not Role.STANDBY:
            was_primary = not pg.standby_signal
            yield from self._stop(StopMode.IMMEDIATE if promoting else stop_mode)
            return was_primary, self.start()
        self.configure(rules.standby_configuration(self.state))
        pg.reload()
        gone = yield from self._receiver_is_gone()
        if not gone:
            yield from self._stop(StopMode.IMMEDIATE)
            self.start()
        return False, None

    def _receiver_is_gone(self) -> Waits:
        pg = self.pg
        deadline = self.world.now + 200
        signalled: object = None
        while pg.life is not None:
            receiver = pg.life.receiver
            if self.broken is Switch.RECEIVER_VIEW:
                if receiver is None or not receiver.streaming:
                    return True
            elif receiver is None:
                return True
            if self.world.now >= deadline:
                return False
            if receiver is not signalled:
                signalled = receiver
                pg.signal_receiver()
            yield 1.0
        return False

    def _read_position(self, deadline: float) -> Waits:
        pg = self.pg
        reason = "PostgreSQL is starting"
        while self.world.now < deadline:
            life = pg.life
            if life is None:
                return "PostgreSQL ended"
            if not life.ready or life.frozen:
                yield 6.0
                continue
            if life.role is not Role.STANDBY:
                if self.broken is Switch.PROMISE_WITHOUT_STOP:
                    return Position(timeline=Timeline(pg.timeline), lsn=lsn_of(pg.flushed), replayed_lsn=lsn_of(pg.flushed))
                return "PostgreSQL is not a standby"
            if (life.at_end and life.replayed >= len(pg.wal)) or self.broken is Switch.ANSWER_DURING_REPLAY:
                end = max(life.streamed if life.at_end else 0, life.replayed)
                timeline = max(t for t, begin in pg.timelines if begin <= end)
                if self.broken is Switch.RECEIVED_ONLY:
                    end = life.streamed or life.replayed // SEGMENT * SEGMENT
                if self.broken is Switch.CONTROL_FILE_TIMELINE:
                    timeline = pg.control_timeline
                return Position(timeline=Timeline(timeline), lsn=lsn_of(end), replayed_lsn=lsn_of(life.replayed))
            reason = "local WAL is being replayed"
            yield 4.0
        return reason

    def _fsync_ms(self) -> float:
        return self.pg.fsync_ms * (0.5 + self.world.rng.random())


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
