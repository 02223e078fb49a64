"""Whether what a client has under way may end the transaction block it is in.

Inside a block nothing is committed before the block ends, so a session that is lost there lost its transaction for certain,
unless something under way may be what ends it: COMMIT, END, PREPARE TRANSACTION, or ROLLBACK and ABORT, behind which another
statement of the same text commits by itself.  The words are looked for in the texts of statements; in a string or a name they
count too, so what is said to be harmless is.  Procedures and DO cannot end a block that is open (PostgreSQL documentation,
"Transaction Management").

In the extended protocol a prepared statement may be one of these.  As long as no text that was prepared has the words, no
message but a Query can end a block; afterwards statements are followed by name, and what is not followed may be an ending.
Pure.
"""

from __future__ import annotations

import re

from pgwire.framing import COLLECTED_BYTES_MAX

NAMES_MAX = 256
"""Prepared statements that may end a block; a client with more of them is not followed any longer."""

_ENDING = re.compile(rb"(?i)\b(?:commit|end|prepare|rollback|abort)\b")


def may_end(text: bytes) -> bool:
    """Return whether a statement's text may end a block, or is too long to be seen whole."""
    return len(text) >= COLLECTED_BYTES_MAX or _ENDING.search(text) is not None


class Block:
    """Follows one client's messages, in order; each answer is whether that message may end a block."""

    __slots__ = ("_endings", "_is_bound", "_is_lost", "_is_pending", "_unnamed", "is_open")

    def __init__(self) -> None:
        self._endings: frozenset[bytes] = frozenset()
        self._unnamed: bool | None = None
        """Whether the unnamed statement is an ending; None: not prepared since the last Sync, it may be an older one."""
        self._is_bound = False
        """Something was bound to the unnamed portal since the last Sync."""
        self._is_pending = False
        """What is bound to it is an ending, and was not executed yet."""
        self._is_lost = False
        """An ending is somewhere where it is not followed: from now on everything may be one."""

        self.is_open = False
        """Something is prepared, bound or executed that no Sync has followed yet: the server may be at it."""

    @property
    def is_followed(self) -> bool:
        """Whether Bind and Execute are wanted from the next one on: something was prepared that is an ending."""
        return bool(self._endings)

    def prepared(self, payload: bytes) -> bool:
        """Take note of a Parse."""
        self.is_open = True
        name, text = _strings(payload, 1)
        ends = len(payload) >= COLLECTED_BYTES_MAX or may_end(text)
        if not name:
            # If it is skipped behind an error, so is whatever is bound to it before the next Sync.
            self._unnamed = ends
        if ends and not self._is_lost:
            self._endings |= {name}
            self._is_lost = len(self._endings) > NAMES_MAX
        return ends or self._is_lost

    def bound(self, payload: bytes) -> bool:
        """Take note of a Bind."""
        self.is_open = True
        portal, statement, _ = _strings(payload, 2)
        ends = self._unnamed if not statement and self._unnamed is not None else statement in self._endings
        if not portal:
            self._is_bound, self._is_pending = True, ends
        return ends or self._is_lost

    def executed(self, payload: bytes) -> bool:
        """Take note of an Execute. What a portal with a name was bound to is not remembered."""
        self.is_open = True
        portal, _ = _strings(payload, 1)
        ends = bool(portal) or self._is_pending or not self._is_bound
        if not portal:
            self._is_pending = False
        return ends or self._is_lost

    def synced(self) -> bool:
        """Take note of a Sync."""
        self.is_open = False
        self._is_lost = self._is_lost or self._is_pending
        self._unnamed, self._is_bound, self._is_pending = None, False, False
        return self._is_lost


def _strings(payload: bytes, count: int) -> list[bytes]:
    """Return *count* strings that end in a zero byte, and the rest."""
    parts = payload.split(b"\0", count)
    return [*parts, *[b""] * (count + 1 - len(parts))]
