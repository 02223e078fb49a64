"""Where the WAL of a primary ends that was shut down in good order: behind its shutdown checkpoint.

PostgreSQL writes that checkpoint as the last record of a primary's life, flushes it, waits until the standbys have it, and
only then sets the state of the control file to "shut down"; it panics rather than end with a record behind it
(xlog.c, CreateCheckPoint and ShutdownXLOG; walsender.c).  So the end is known without a start, which a crashed server or a
standby needs (S6): for those the control file is no position.  What is not exactly as described here is no answer.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

from noded.controldata import ControlData
from pgtopology.lsn import Lsn
from pgtopology.node import Position
from pgtopology.timeline import Timeline

SHUT_DOWN = "shut down"
"""The state a primary leaves; a standby's is "shut down in recovery"."""

_HEADER = struct.Struct("=IIQBB2xI")
"""XLogRecord (xlogrecord.h) as this machine writes it: total length, xid, previous record, info, resource manager, CRC."""
_XLOG = 0
_INFO_OF_MANAGER = 0xF0
_CHECKPOINT_SHUTDOWN = 0x00
_ALIGNMENT = 8
_PAGE_HEADER_BYTES = 24
_FIRST_PAGE_HEADER_BYTES = 40
"""Of a segment (xlog_internal.h)."""


@dataclass(frozen=True, slots=True)
class Place:
    """How WAL is laid out."""

    block_bytes: int
    segment_bytes: int

    def segment_name(self, timeline: Timeline, lsn: Lsn) -> str:
        """Return the name of the file that holds *lsn* on *timeline*."""
        number, per_id = lsn // self.segment_bytes, 0x1_0000_0000 // self.segment_bytes
        return f"{timeline:08X}{number // per_id:08X}{number % per_id:08X}"

    def end_of_record(self, start: Lsn, length: int) -> Lsn:
        """Return where a record of *length* bytes at *start* ends and another may begin; page headers lie between its parts."""
        left = length
        at = int(start)
        while (room := self.block_bytes - at % self.block_bytes) < left:
            left -= room
            at += room
            at += _FIRST_PAGE_HEADER_BYTES if at % self.segment_bytes == 0 else _PAGE_HEADER_BYTES
        return Lsn(at + -(-left // _ALIGNMENT) * _ALIGNMENT)


def position_of(wal: Path, control: ControlData) -> Position | None:
    """Return where the WAL in *wal* ends, whose server is not running; None if it was no primary that ended in good order."""
    if control.state != SHUT_DOWN:
        return None
    place = Place(control.wal_block_bytes, control.wal_segment_bytes)
    timeline, start = control.checkpoint_timeline, control.checkpoint
    try:
        with (wal / place.segment_name(timeline, start)).open("rb") as segment:
            segment.seek(start % place.segment_bytes)
            length, _, _, info, manager, _ = _HEADER.unpack(segment.read(_HEADER.size))
    except (OSError, struct.error):
        return None
    is_checkpoint = manager == _XLOG and info & _INFO_OF_MANAGER == _CHECKPOINT_SHUTDOWN
    if not is_checkpoint or not _HEADER.size < length < place.block_bytes:
        return None
    end = place.end_of_record(start, length)
    return Position(timeline=timeline, lsn=end, replayed_lsn=end)
