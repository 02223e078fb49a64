"""PostgreSQL's timelines, and which epoch each belongs to.

PostgreSQL numbers a new timeline one above the highest history file it can find, so two nodes promoted from the same
position would both make timeline 2 with different contents, and neither pg_rewind nor streaming would notice (S3).
Therefore a timeline belongs to one epoch: its number is claimed in the document before the promotion is ordered, greater
than any ever claimed or seen, and a node on a timeline that is not recorded here is never counted.

Claims are odd.  A server on a claimed timeline that somebody promotes by hand takes the even number above it, and whoever
follows that server goes along: nobody will ever claim that number, however much later he is heard of (docs/decisions/0010).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NewType

import msgspec

from pgtopology.epoch import Epoch
from pgtopology.lsn import Lsn

Timeline = NewType("Timeline", int)

BETWEEN_CLAIMS = 2
"""How far a claim is from the one before, if nobody was seen beyond that."""

UNKNOWN_CLAIMS_MAX = 16
"""For so many epochs that ended without a known claim a number is left out; each costs a candidate a placeholder (S3)."""

FIRST_TIMELINE = Timeline(1)
"""What initdb makes. It belongs to no epoch: nobody ever writes on it, for every writer is made by a promotion."""

RECORDS_MAX = 512
"""How many claimed timelines the document keeps, newest last; older ones cannot be a live node's timeline any more."""


class TimelineRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One claimed timeline: whose it is, and what became of it."""

    timeline: Timeline
    epoch: Epoch
    node: str
    parent: Timeline
    """The timeline the candidate was on when it was elected."""
    fork_lsn: Lsn
    """Where the candidate's WAL ended when it was elected: what others hold of *parent* beyond this is not its history."""
    opened: bool = False
    """Whether its node was ever published as the writer. What is on an unopened timeline was acknowledged to nobody."""


TOLD_MAX = 64
"""How many of them, the newest, travel with orders and are kept by nodes: enough to rebuild a lost document."""


def merge_records(known: Iterable[TimelineRecord], told: Iterable[TimelineRecord]) -> tuple[TimelineRecord, ...]:
    """Return the claims in either, oldest first. A number is claimed once: a record already known may only become opened."""
    merged = {record.timeline: record for record in known}
    for record in told:
        before = merged.get(record.timeline)
        if before is None or msgspec.structs.replace(before, opened=True) == record:
            merged[record.timeline] = record
    return tuple(merged[timeline] for timeline in sorted(merged))


def next_timeline(records: Iterable[TimelineRecord], seen: Iterable[Timeline], epoch: Epoch) -> Timeline:
    """Return the first odd number greater than any ever claimed in *records* or observed in *seen*, and that any epoch between
    the last claim's and *epoch* may have claimed, in a history that the store has lost: nobody may have said so yet.
    """
    greatest = max([last_claimable(records, Epoch(epoch - 1), unknown_max=UNKNOWN_CLAIMS_MAX), *seen])
    return Timeline(greatest + (BETWEEN_CLAIMS if is_claimable(greatest) else 1))


def last_claimable(records: Iterable[TimelineRecord], epoch: Epoch, *, unknown_max: int | None = None) -> Timeline:
    """Return the greatest number that may have been claimed by the end of *epoch*: each epoch after the last known claim's may
    have claimed one; at most *unknown_max* of them are reckoned with.
    """
    last = max(records, key=lambda record: record.timeline, default=None)
    number, claimed_in = (last.timeline, last.epoch) if last is not None else (FIRST_TIMELINE, 0)
    unknown = max(0, epoch - claimed_in)
    return Timeline(number + BETWEEN_CLAIMS * (unknown if unknown_max is None else min(unknown, unknown_max)))


def is_claimable(timeline: int) -> bool:
    """Return whether *timeline* is a number that only a claim can have given to a server on a claimed timeline."""
    return timeline % BETWEEN_CLAIMS == FIRST_TIMELINE


def fork_from(records: Iterable[TimelineRecord], current: Timeline, other: Timeline) -> Lsn | None:
    """Return where the history of *current* left *other*, or None if *other* is no ancestor of it."""
    by_timeline = {record.timeline: record for record in records}
    timeline = current
    while (record := by_timeline.get(timeline)) is not None and record.parent < timeline:
        if record.parent == other:
            return record.fork_lsn
        timeline = record.parent
    return None


def epoch_of(records: Iterable[TimelineRecord], timeline: Timeline) -> Epoch | None:
    """Return the epoch *timeline* belongs to, 0 for initdb's own, or None if nobody ever claimed it."""
    if timeline == FIRST_TIMELINE:
        return Epoch(0)
    for record in records:
        if record.timeline == timeline:
            return record.epoch
    return None
