"""One thing that happened to the cluster, as the manager's journal keeps it and GET /v1/events tells it."""

from __future__ import annotations

from typing import Any

import msgspec

from pgtopology.document import FORMAT_VERSION


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that happened. The shape is part of the operator's contract (GET /v1/events)."""

    format_version: int = FORMAT_VERSION
    sequence: int
    at: str
    """Wall time, ISO 8601 in UTC, for people."""
    monotonic_ms: int
    """The manager's monotonic clock: differences are durations, within one run of the machine."""
    epoch: int
    kind: str
    node: str | None = None
    elapsed_ms: int | None = None
    """Since the failure was detected, for the steps of a failover."""
    message: str
    fields: dict[str, Any] = {}
