"""The data directory of a simulated PostgreSQL: WAL as record ids on timelines, what is fsynced of it, the configuration."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from tests.sim.checks import Checks
from tests.sim.network import Network
from tests.sim.processes import Life
from tests.sim.world import World

if TYPE_CHECKING:
    from tests.sim.postgres import Postgres


WRITEBACK_MS = 2000.0
"""After this the operating system has written what nobody fsynced."""


class DataDirectory:
    """What outlives the processes, and which life runs on it."""

    __slots__ = (
        "_next_pid",
        "by_name",
        "checkpoint",
        "checks",
        "conf_by_hand",
        "conf_names",
        "conf_upstream",
        "control_timeline",
        "exists",
        "flushed",
        "fsync_ms",
        "lets_pass",
        "life",
        "minimum",
        "net",
        "node",
        "on_exit",
        "password_for",
        "peers",
        "placeholders",
        "saved_conf",
        "shut_down",
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
        self.lets_pass = False
        """Whether the commit that is acknowledged now waited for nobody, because the list was emptied by hand."""
        self.by_name = False
        """Whether whoever bears a voter's name, whatever its data, acknowledges (S16)."""
        self._next_pid = 100
        self.exists = False
        self.sync_name = ""
        self.clear()

    def clear(self) -> None:
        """Have no data."""
        self.exists = False
        self.wal: list[int] = []
        self.timelines: list[tuple[int, int]] = []
        self.flushed = 0
        self.checkpoint = 0
        self.minimum = 0
        """How far WAL must reach before a server accepts connections: past its end after a rewind."""
        self.control_timeline = 1
        self.shut_down = False
        """Whether the control file says so: a primary ended here in good order, and nothing was started since."""
        self.standby_signal = True
        self.placeholders = 0
        self.conf_upstream: str | None = None
        self.conf_names = ""
        self.conf_by_hand = False
        """Whether somebody else than noded wrote the list of synchronous standbys."""
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

    def put_rewound(self, wal: list[int], timelines: list[tuple[int, int]], missing: int) -> None:
        """Hold what a rewind leaves: data files that go *missing* records further than the WAL that came with them."""
        length = max(1, len(wal) - missing)
        self.put(wal[:length], [entry for entry in timelines if entry[1] <= length])
        self.minimum = len(wal)

    @property
    def timeline(self) -> int:
        """The newest timeline of the local WAL."""
        return self.timelines[-1][0]

    def configure(self, upstream: str | None, names: str, *, durable: bool = True) -> None:
        """Write the two settings, and the password where it is needed."""
        self.conf_upstream, self.conf_names, self.password_for = upstream, names, upstream
        self.conf_by_hand = False
        if durable:
            self.saved_conf = upstream, names, upstream
        else:
            self.world.after(WRITEBACK_MS, None, self._written_back, (upstream, names, upstream))

    def _written_back(self, conf: tuple[str | None, str, str | None]) -> None:
        if conf == (self.conf_upstream, self.conf_names, self.password_for):
            self.saved_conf = conf

    def lose_unsynced(self) -> None:
        """The power went: nothing that was not fsynced is left."""
        if len(self.wal) > self.flushed:
            self.world.counts["unsynced WAL lost"] += 1
        if self.saved_conf != (self.conf_upstream, self.conf_names, self.password_for):
            self.world.counts["unsynced configuration lost"] += 1
        del self.wal[self.flushed :]
        while len(self.timelines) > 1 and self.timelines[-1][1] > self.flushed:
            self.timelines.pop()
        self.conf_upstream, self.conf_names, self.password_for = self.saved_conf

    def _generate(self) -> int:
        self.checks.records += 1
        record = self.checks.records
        self.wal.append(record)
        if self.life is None or self.life.epoch:
            self.checks.generated(self.node, self.timeline, len(self.wal), record)
        else:
            self.checks.generated_by_hand(self.node, self.timeline, len(self.wal), record)
        return len(self.wal)

    def checkpoint_now(self) -> None:
        """A checkpoint or restartpoint: the control file learns the timeline."""
        if self.exists and self.life is not None:
            self.control_timeline = self.timeline
            self.checkpoint = max(0, min(self.life.replayed or len(self.wal), self.flushed) - 2)


def _nothing() -> None:
    pass
