"""Why the cluster is as it is, as GET /v1/explain tells it."""

from __future__ import annotations

import msgspec

from pgtopology.document import FORMAT_VERSION
from pgtopology.event import Event


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """Why the cluster is as it is: the plan of this moment, what each repair waits for, and the last decisions."""

    format_version: int = FORMAT_VERSION
    diagnosis: str
    reason: str
    actions: tuple[str, ...]
    repairs: tuple[dict[str, str], ...]
    pending: str | None = None
    """The failover or switchover that was accepted and has not begun, and what it waits for."""
    in_flight: tuple[str, ...]
    failures: tuple[dict[str, str], ...]
    recent: tuple[Event, ...]
