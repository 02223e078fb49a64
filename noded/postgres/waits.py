"""What PostgreSQL's processes wait for, by the names of every version."""

from __future__ import annotations

REPLAY_IS_HELD_UP = """(wait_event_type = 'Lock' OR wait_event LIKE 'RecoveryConflict%'
                       OR wait_event IN ('BufferPin', 'BufferCleanup'))"""
"""The condition, of a startup process, that it waits for somebody who reads.

From PostgreSQL 19 on the wait for a pin is called BufferCleanup, and its type, once BufferPin, is Buffer, which it shares with
short waits for a page's content: so the type says nothing. PostgreSQL, wait_event_names.txt.
"""
