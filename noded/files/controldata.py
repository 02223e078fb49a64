"""What pg_controldata says of a data directory that is not running.

Only what noded acts upon.  The timeline in a control file may lie behind the WAL (S6), so it is no position by itself;
`position.at_shutdown` knows the one exception.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from noded.files.segments import Geometry
from pgtopology.lsn import Lsn, parse_lsn
from pgtopology.timeline import Timeline

_DEMANDS = {
    "max_connections": "max_connections setting",
    "max_locks_per_transaction": "max_locks_per_xact setting",
    "max_prepared_transactions": "max_prepared_xacts setting",
    "max_worker_processes": "max_worker_processes setting",
}


@dataclass(frozen=True, slots=True)
class ControlData:
    """The identity of a data directory, and how it was left."""

    system_identifier: str
    state: str
    """PostgreSQL's words, for example ``shut down in recovery`` or ``in production``."""
    checkpoint: Lsn
    """Where the record of the latest checkpoint begins."""
    checkpoint_timeline: Timeline
    geometry: Geometry
    consistent: Lsn
    """How far a standby has written what it replayed; 0 on a server that was no standby."""
    consistent_timeline: Timeline
    """0 on a server that was no standby."""
    demands: Mapping[str, int] = field(default_factory=dict[str, int])
    """What a standby on this data needs at least of each parameter (`parameters.AT_LEAST_THE_WRITERS`)."""
    mock_nonce: bytes = field(default=b"", repr=False)
    """From it and a name follows the salt that is shown for a role that does not exist; the same on all copies."""

    @property
    def was_shut_down(self) -> bool:
        """Whether the last server ended in an orderly way."""
        return self.state.startswith("shut down")


def parse_controldata(text: str) -> ControlData:
    """Return what *text*, the output of pg_controldata in the C locale, says.

    Raises ValueError if a line is missing or senseless.
    """
    if "CRC checksum does not match" in text:
        raise ValueError("the control file is damaged: its checksum is wrong")
    lines = (line.partition(":") for line in text.splitlines())
    values = {key.strip(): value.strip() for key, _, value in lines}
    try:
        control = ControlData(
            system_identifier=values["Database system identifier"],
            state=values["Database cluster state"],
            checkpoint=parse_lsn(values["Latest checkpoint location"]),
            checkpoint_timeline=Timeline(int(values["Latest checkpoint's TimeLineID"])),
            geometry=Geometry(int(values["WAL block size"]), int(values["Bytes per WAL segment"])),
            consistent=parse_lsn(values.get("Minimum recovery ending location", "0/0")),
            consistent_timeline=Timeline(int(values.get("Min recovery ending loc's timeline", "0"))),
            demands={name: int(values[line]) for name, line in _DEMANDS.items() if line in values},
            mock_nonce=bytes.fromhex(values.get("Mock authentication nonce", "")),
        )
    except KeyError as error:
        raise ValueError(f"pg_controldata did not report {error}") from error
    if min(control.geometry.segment_bytes, control.geometry.block_bytes, control.checkpoint_timeline) <= 0:
        raise ValueError("the control file is damaged")
    return control
