"""Until when the writer we know may be served, and on whose word (S14).

A proxy that is cut off together with an old primary would show old data for ever.  Therefore somebody must vouch for the
writer all the time: the manager that holds the lease, by each frame of the feed; or, while no manager answers, the writer's
own noded, by a commit that w nodes have acknowledged, which it could not get if another writer stood.  All times are on the
caller's monotonic clock.  Pure.
"""

from __future__ import annotations

from dataclasses import dataclass

from pgtopology.document import Topology
from pgtopology.node import Role
from pgtopology.observation import Observation
from pgtopology.report import FeedFrame
from pgtopology.timing import HEARTBEAT_VALID_MS

HEARTBEAT_VALID_S = HEARTBEAT_VALID_MS / 1000

NEVER = float("-inf")


@dataclass(frozen=True, slots=True)
class Freshness:
    """Two words for the writer, and until when each is good."""

    lease_until: float = NEVER
    heartbeat_until: float = NEVER

    @property
    def until(self) -> float:
        """When the writer may not be served any longer unless somebody vouches again."""
        return max(self.lease_until, self.heartbeat_until)

    def is_valid(self, now: float) -> bool:
        """Return whether the writer may be served."""
        return now < self.until


def lease_until(frame: FeedFrame, held: Topology | None) -> float:
    """Return until when *frame* vouches for the document *held*: not at all if it speaks of another one.

    The lease is counted from the moment we sent the report that the manager had when it made the frame, so a frame that was
    long under way does not vouch for longer than its manager meant.
    """
    if held is None or (frame.epoch, frame.revision) != (held.epoch, held.revision):
        return NEVER
    if frame.lease_ms <= 0 or frame.echo_ms is None:
        return NEVER
    return (frame.echo_ms + frame.lease_ms) / 1000


def heartbeat_until(seen: Observation, held: Topology, asked_at: float) -> float | str:
    """Return until when what the writer's noded says vouches for the writer of *held*, or why it does not.

    The age it states is counted from *asked_at*, before the answer was made, so the result is never too late. It is that of the
    beginning: an acknowledgement may have been long under way, or waited in a server that stood still, and says nothing of now.
    """
    if seen.node != held.writer:
        return f'"{seen.node}" is not the writer'
    if seen.role is not Role.PRIMARY:
        return f'"{seen.node}" does not run as a primary'
    if seen.promised > held.epoch or seen.seen.epoch > held.epoch:
        return f'"{seen.node}" knows of a newer epoch than {held.epoch}'
    heartbeat = seen.heartbeat
    if heartbeat is None or heartbeat.acknowledged_age_ms is None:
        return f'"{seen.node}" has no acknowledged heartbeat'
    if heartbeat.epoch != held.epoch:
        return f"the heartbeat is of epoch {heartbeat.epoch}, not {held.epoch}"
    age_ms = heartbeat.begun_age_ms if heartbeat.begun_age_ms is not None else heartbeat.acknowledged_age_ms
    return asked_at - age_ms / 1000 + HEARTBEAT_VALID_S
