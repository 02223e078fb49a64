"""The record of one failover or switchover: what was seen, decided, ordered, answered and written, with its times.

Made by the manager (one JSON file each, GET /v1/failovers/EPOCH), read by operators and tools.  A record influences nothing.
Every time is milliseconds on the manager's monotonic clock, counted from the detection: what came before it is negative.
Wall time stands in it once, for people.  A record whose *ended* is false tells how far its manager came.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from statistics import median

import msgspec

from pgtopology.document import FORMAT_VERSION
from pgtopology.epoch import Epoch, Revision
from pgtopology.node import Incarnation, NodeName
from pgtopology.timeline import Timeline

EARLIER_ATTEMPTS = "earlier attempts"

_PHASES = (
    ("detect", "detected"),
    ("publish", "published"),
    (EARLIER_ATTEMPTS, "begun"),
    ("recruit", "recruited"),
    ("elect", "elected"),
    ("claim", "claimed"),
    ("promote", "promoted"),
    ("first quorum commit", "proven"),
    ("publish writer", "opened"),
)
"""Each phase and the mark that ends it; the first begins at the mark "good"."""

MARKS_OF_AN_ATTEMPT = ("recruited", "elected", "claimed", "promoted", "proven")
"""What starts anew with another epoch of the same failure."""

PHASES = tuple(name for name, _ in _PHASES)


class OutageKind(StrEnum):
    """Why nobody could commit: only the first is a failure that the cluster answered by itself."""

    FAILOVER = "failover"
    SWITCHOVER = "switchover"
    PLANNED_STOP = "planned_stop"
    """The writer had been stopped in good order, by `down` or with its noded."""
    PAUSED = "paused"
    """The writer had failed while an operator kept automatic failover paused."""


class NodeSnapshot(msgspec.Struct, frozen=True, kw_only=True):
    """What the manager knew of one node at a moment."""

    node: NodeName
    age_ms: float | None
    """Of its newest observation; None: it was never heard."""
    port: str
    """What the manager's own connection to PostgreSQL met; "unknown" while its noded answers."""
    role: str | None = None
    postmaster: str | None = None
    unexpected_exit: bool = False
    deaf_ms: int = 0
    timeline: Timeline | None = None
    wal_end: str | None = None
    replayed: str | None = None
    wal_advanced_age_ms: float | None = None
    receiver_running: bool | None = None
    receiver_streaming: bool | None = None
    upstream: NodeName | None = None
    heartbeat_acknowledged_age_ms: int | None = None
    heartbeat_pending_ms: int | None = None
    heartbeat_error: str | None = None
    promised: Epoch | None = None
    whole: bool | None = None


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """All nodes at one step."""

    step: str
    at_ms: float
    nodes: tuple[NodeSnapshot, ...]


class PlanChange(msgspec.Struct, frozen=True, kw_only=True):
    """The manager changed its mind."""

    at_ms: float
    diagnosis: str
    reason: str
    actions: tuple[str, ...]


class OrderTold(msgspec.Struct, frozen=True, kw_only=True):
    """An order to a node, and its answer."""

    at_ms: float
    answered_ms: float | None = None
    """When the answer came; None while there was none."""
    order: str
    node: NodeName
    epoch: Epoch
    revision: Revision
    outcome: str = "under way"
    """"done", "cancelled", or the code of the refusal or failure."""
    message: str = ""


class PromiseTold(msgspec.Struct, frozen=True, kw_only=True):
    """A promise as it was answered."""

    at_ms: float
    node: NodeName
    promised: Epoch
    incarnation: Incarnation | None
    whole: bool
    timeline: Timeline | None = None
    lsn: str | None = None
    replayed: str | None = None
    unknown_because: str = ""
    was_primary: bool = False


class VoteTold(msgspec.Struct, frozen=True, kw_only=True):
    """One voter in the arithmetic."""

    node: NodeName
    counts: bool
    why: str


class Election(msgspec.Struct, frozen=True, kw_only=True):
    """The arithmetic of the safe set, and who was elected out of it."""

    at_ms: float
    epoch: Epoch
    n: int
    """Recorded voters."""
    w: int
    """Copies of an acknowledged commit."""
    needed: int
    """N - w + 1."""
    counted: int
    votes: tuple[VoteTold, ...]
    elected: NodeName
    because: str
    passed_over: dict[str, str]
    """Every other voter, with the reason."""


class WriteTold(msgspec.Struct, frozen=True, kw_only=True):
    """A write of the document."""

    at_ms: float
    took_ms: float
    revision: Revision
    epoch: Epoch
    writer: NodeName | None
    candidate: NodeName | None
    because: str
    outcome: str = "written"


class Phase(msgspec.Struct, frozen=True, kw_only=True):
    """A part of the outage."""

    name: str
    ms: float


class Narrator(msgspec.Struct, frozen=True, kw_only=True):
    """A manager that wrote on the record."""

    manager: str
    boot: str
    """Of the machine: within one boot the clocks of two managers are one clock."""
    at_ms: float
    note: str


class Flight(msgspec.Struct, frozen=True, kw_only=True):
    """The whole record."""

    format_version: int = FORMAT_VERSION
    epoch: Epoch
    """The first one of this failure; the file is called by it."""
    last_epoch: Epoch
    """The same unless it took several attempts."""
    kind: str
    cause: str
    reason: str
    from_node: NodeName | None
    writer: NodeName | None = None
    """Who leads now; None until it ended."""
    detected_at: str
    """Wall time, ISO 8601 in UTC."""
    detected_monotonic_ms: float
    """On the manager's clock: what every other time counts from."""
    ended: bool = False
    outage_ms: float | None = None
    """From the last commit that the old writer's noded had acknowledged to the next published writer, whose own commit has just
    been: the sum of *phases*. A switchover counts from its beginning, for the writer was well until then. None until it ended,
    and if nobody knows: this manager never saw the old writer well, or the clock of an earlier manager is not ours."""
    since_detection_ms: float | None = None
    """The part of it behind the detection."""
    outage_kind: str = ""
    """What kind of outage (`OutageKind`); empty in records of earlier versions, which go by *kind*."""
    rejoined_ms: float | None = None
    """When the old primary followed the new one."""
    phases: tuple[Phase, ...] = ()
    marks: dict[str, float] = {}
    """When each step was reached; the phases lie between them."""
    managers: tuple[Narrator, ...] = ()
    snapshots: tuple[Snapshot, ...] = ()
    plans: tuple[PlanChange, ...] = ()
    promises: tuple[PromiseTold, ...] = ()
    elections: tuple[Election, ...] = ()
    orders: tuple[OrderTold, ...] = ()
    writes: tuple[WriteTold, ...] = ()
    left_out: int = 0
    """Entries that found no room: each list is bounded."""


class FlightSummary(msgspec.Struct, frozen=True, kw_only=True):
    """A line of the list of records."""

    epoch: Epoch
    last_epoch: Epoch
    kind: str
    cause: str
    from_node: NodeName | None
    writer: NodeName | None
    detected_at: str
    ended: bool
    outage_ms: float | None
    since_detection_ms: float | None
    rejoined_ms: float | None
    outage_kind: str = ""


class Flights(msgspec.Struct, frozen=True, kw_only=True):
    """The list, newest first."""

    format_version: int = FORMAT_VERSION
    failovers: tuple[FlightSummary, ...]


class PhaseTimes(msgspec.Struct, frozen=True, kw_only=True):
    """What a phase took in the failovers that were measured."""

    name: str
    p50_ms: float
    worst_ms: float


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """What failovers took so far."""

    count: int
    p50_ms: float
    worst_ms: float
    phases: tuple[PhaseTimes, ...]


def phases_of(marks: Mapping[str, float]) -> tuple[Phase, ...]:
    """Return the phases between *marks*, from "good" to "opened"; they add up to what lies between the two.

    A mark that is missing, or older than the one before it, gives its phase nothing; the time goes to the next.
    """
    opened = marks.get("opened")
    if opened is None or "good" not in marks:
        return ()
    at = marks["good"]
    phases: list[Phase] = []
    for name, mark in _PHASES:
        reached = min(max(at, marks.get(mark, at)), opened)
        if mark in marks or name != EARLIER_ATTEMPTS:
            phases.append(Phase(name=name, ms=round(reached - at, 2)))
        at = reached
    return tuple(phases)


def kind_of(flight: Flight) -> str:
    """Return what kind of outage *flight* tells of."""
    return flight.outage_kind or flight.kind


def summary_of(flight: Flight) -> FlightSummary:
    """Return the line of *flight* in the list."""
    return FlightSummary(
        epoch=flight.epoch,
        last_epoch=flight.last_epoch,
        kind=flight.kind,
        cause=flight.cause,
        from_node=flight.from_node,
        writer=flight.writer,
        detected_at=flight.detected_at,
        ended=flight.ended,
        outage_ms=flight.outage_ms,
        since_detection_ms=flight.since_detection_ms,
        rejoined_ms=flight.rejoined_ms,
        outage_kind=kind_of(flight),
    )


def measure(flights: tuple[Flight, ...]) -> Measured | None:
    """Return medians and worst times of *flights* that ended, or None if there are none."""
    ended = [flight for flight in flights if flight.outage_ms is not None]
    if not ended:
        return None
    outages = [flight.outage_ms for flight in ended if flight.outage_ms is not None]
    times: dict[str, list[float]] = {name: [] for name in PHASES}
    for flight in ended:
        taken = {phase.name: phase.ms for phase in flight.phases}
        for name in PHASES:
            times[name].append(taken.get(name, 0.0))
    return Measured(
        count=len(ended),
        p50_ms=round(median(outages), 1),
        worst_ms=round(max(outages), 1),
        phases=tuple(
            PhaseTimes(name=name, p50_ms=round(median(of), 1), worst_ms=round(max(of), 1))
            for name, of in times.items()
            if name != EARLIER_ATTEMPTS or any(of)
        ),
    )
