"""Times that two programs must agree on, in milliseconds.

One program does something so often, or for so long, and another one relies on it.  Each stands here once, and its inequalities
with what single programs wait for are tests/test_timing.py: whoever changes one sees what else it holds up.  A time that only
one program knows stays where it is used.
"""

from __future__ import annotations

# Who vouches for the writer, and for how long (S14).

FRAME_EVERY_MS = 150
"""A manager says something to every proxy at least so often."""
FRAME_LEASE_MS = 600
"""A proxy may serve the writer upon one frame for so long."""
HEARTBEAT_EVERY_MS = 200
"""The writer's noded begins a heartbeat so long after the last one was acknowledged."""
HEARTBEAT_VALID_MS = 600
"""How old a quorum heartbeat may be, from its beginning, and still vouch for the writer."""
OLD_WRITER_VISIBLE_MS = max(FRAME_LEASE_MS, HEARTBEAT_VALID_MS)
"""After its last sign of life an old writer may be served for so long by a proxy that knows of no other; a new one waits."""

# What managers hear of nodes.

REPORT_EVERY_MS = 200
"""A noded tells its managers how things stand at least so often."""
WAL_RECEIVER_TIMEOUT_MS = 2000
"""A standby gives up an upstream that was silent for so long (wal_receiver_timeout)."""

# Ends.

DRAIN_MS = 2000
"""When the writer is handed over, sessions may go on to their safe points for so long."""
FAST_STOP_MS = 25_000
"""A server is given so long for the checkpoint of its stop; then noded stops it without one."""
