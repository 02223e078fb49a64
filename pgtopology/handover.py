"""What a switchover would do now, as POST /v1/switchover tells it when it is only rehearsed."""

from __future__ import annotations

import msgspec

from pgtopology.document import FORMAT_VERSION


class Rehearsal(msgspec.Struct, frozen=True, kw_only=True):
    """What a switchover would do now."""

    format_version: int = FORMAT_VERSION
    possible: bool
    obstacle: str | None
    """What stands in the way, or None."""
    from_node: str | None
    to: str | None
    """Who would take over, as far as can be told."""
    expected_ms: int | None
    """The median pause of the switchovers so far, else of the failovers; None before the first."""
    steps: tuple[str, ...]
    slots_lost: tuple[str, ...] = ()
    """The users' replication slots that would not be there afterwards, or not with all of their WAL; one sentence each."""
