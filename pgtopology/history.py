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
    """From detection to the published writer."""
    at: str | None = None


class History(msgspec.Struct, frozen=True):
    """The writers of the past, the newest last, and what else changed."""

    events: tuple[Event, ...]
    writers: tuple[PastWriter, ...] = ()
    format_version: int = FORMAT_VERSION
