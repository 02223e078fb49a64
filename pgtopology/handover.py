"""What a switchover would do now, as POST /v1/switchover tells it when it is only rehearsed."""

from __future__ import annotations

import msgspec

from pgtopology.document import FORMAT_VERSION
from pgtopology.drill import LongSession


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
    """The median pause of the switchovers so far, else of the failovers, and if transactions are open now all of the time for
    draining besides; None before the first."""
    drain_ms: int = 2000
    """How long sessions may finish what they are doing."""
    bound_ms: int | None = None
    """At most so long until another writer, or the old one again, is being promoted; a promotion comes behind it."""
    client_sessions: int | None = None
    """On the writer: all of them end, those between two transactions at once. None: it did not say."""
    replication_sessions: int = 0
    """Archives, subscribers and base backups on the writer. Those that stream are not waited for: the server sends them
    everything when it stops."""
    archiver: str | None = None
    """Why the server's stop would wait for its archiver, and the pause last as long as it may; None if it is not known to."""
    open_count: int | None = None
    """Of these, those with a transaction open: they end by force if they are not done within *drain_ms*."""
    open_sessions: tuple[LongSession, ...] = ()
    """The oldest of them."""
    steps: tuple[str, ...]
    slots_awaited: tuple[str, ...] = ()
    """Of these slots those whose copies will be there in a moment: the reason why a handover is refused for that long."""
    slots_lost: tuple[str, ...] = ()
    """The users' replication slots that would not be there afterwards, or not with all of their WAL; one sentence each."""
