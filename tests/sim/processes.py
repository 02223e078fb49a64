"""The processes of one simulated PostgreSQL, as values: the postmaster's life, its walreceiver, its walsenders."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING

from pgtopology.lsn import Lsn
from pgtopology.node import Role
from tests.sim.network import Stream
from tests.sim.world import Owner

if TYPE_CHECKING:
    from tests.sim.postgres import Postgres


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
        "by_hand",
        "epoch",
        "flushing",
        "frozen_at_ms",
        "names_checkpointer",
        "names_shown",
        "ordered_end",
        "pending",
        "pid",
        "promoting",
        "proven",
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
        """Up to here commits are shown to everybody."""
        self.proven = 0
        """The same without what only a strange hand let pass, unless a later commit was acknowledged by the quorum."""
        self.by_hand = False
        """Whether the list of synchronous standbys that the checkpointer has read was written by a strange hand."""
        self.epoch = 0
        self.promoting = False
        self.frozen_at_ms = 0.0
        self.ordered_end = False
