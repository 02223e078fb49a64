"""Where the WAL of a primary ends that was shut down in good order: behind its shutdown checkpoint.

PostgreSQL writes that checkpoint as the last record of a primary's life, flushes it, waits until the standbys have it, and
only then sets the state of the control file to "shut down"; it panics rather than end with a record behind it
(xlog.c, CreateCheckPoint and ShutdownXLOG; walsender.c).  So the end is known without a start, which a crashed server or a
standby needs (S6): for those the control file is no position.  What is not exactly as described here is no answer.
"""

from __future__ import annotations

import struct
from pathlib import Path

from noded.files.controldata import ControlData
from pgtopology.node import Position

SHUT_DOWN = "shut down"
"""The state a primary leaves; a standby's is "shut down in recovery"."""

_HEADER = struct.Struct("=IIQBB2xI")
"""XLogRecord (xlogrecord.h) as this machine writes it: total length, xid, previous record, info, resource manager, CRC."""
_XLOG = 0
_INFO_OF_MANAGER = 0xF0
_CHECKPOINT_SHUTDOWN = 0x00


def position_of(wal: Path, control: ControlData) -> Position | None:
    """Return where the WAL in *wal* ends, whose server is not running; None if it was no primary that ended in good order."""
    if control.state != SHUT_DOWN:
        return None
    geometry, timeline, start = control.geometry, control.checkpoint_timeline, control.checkpoint
    try:
        with (wal / geometry.name(timeline, start)).open("rb") as segment:
            segment.seek(start % geometry.segment_bytes)
            length, _, _, info, manager, _ = _HEADER.unpack(segment.read(_HEADER.size))
    except (OSError, struct.error):
        return None
    is_checkpoint = manager == _XLOG and info & _INFO_OF_MANAGER == _CHECKPOINT_SHUTDOWN
    if not is_checkpoint or not _HEADER.size < length < geometry.block_bytes:
        return None
    end = geometry.end_of_record(start, length)
    return Position(timeline=timeline, lsn=end, replayed_lsn=end)
