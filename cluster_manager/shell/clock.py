"""The manager's two clocks: one that is decided by, and that on the wall."""

from __future__ import annotations

import time
from datetime import UTC, datetime


def now_ms() -> float:
    """Return the manager's one monotonic clock, in milliseconds."""
    return time.monotonic() * 1000


def wall_ms() -> int:
    """Return the wall time in milliseconds since 1970, which nothing is decided by."""
    return int(time.time() * 1000)


def wall_time() -> str:
    """Return the wall time for people, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
