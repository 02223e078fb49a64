"""What proves that a commit is on enough voters: walsenders' rows, each under its voter's own name and slot (S16)."""

from __future__ import annotations

from collections.abc import Iterable

from pgtopology.lsn import Lsn
from pgtopology.observation import Observation, Walsender
from pgtopology.quorum import Voter


def flushed_by(writer: Observation, voters: Iterable[Voter], lsn: Lsn) -> list[Walsender]:
    """Return the walsenders by which *voters* show to *writer* that they have flushed its WAL up to *lsn*."""
    names = {voter.sync_name for voter in voters}
    return [
        sender
        for sender in writer.walsenders
        if sender.name in names and sender.slot == sender.name and sender.flush_lsn is not None and sender.flush_lsn >= lsn
    ]
