"""The writers of the past, as GET /v1/history tells them."""

from __future__ import annotations

import msgspec

from pgtopology.document import FORMAT_VERSION
from pgtopology.event import Event


class PastWriter(msgspec.Struct, frozen=True, kw_only=True):
    """A timeline that was claimed, and who led on it."""

    timeline: int
    parent: int
    fork_lsn: str
    """Where it left its parent."""
    epoch: int
    node: str
    opened: bool
    """Somebody could write on it; if not, the attempt failed before that."""
    kind: str | None = None
    cause: str | None = None
    outage_ms: int | None = None
    """From the last acknowledged commit of the writer before to the published writer; None: unknown, or nobody was there."""
    since_detection_ms: int | None = None
    outage_kind: str | None = None
    """failover, switchover, planned_stop or paused."""
    at: str | None = None


class History(msgspec.Struct, frozen=True):
    """The writers of the past, the newest last, and what else changed."""

    events: tuple[Event, ...]
    writers: tuple[PastWriter, ...] = ()
    format_version: int = FORMAT_VERSION
