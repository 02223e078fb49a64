"""Whether a client relaxes its commits: asks for some that the promise does not cover, or would not hear that one was not.

An acknowledged commit survives a failover because the server waits for its copies before it answers.  A client can take that
away from itself: synchronous_commit says what a commit waits for (remote_apply too asks for something else: for standbys to
replay, which a conflict or a pause there keeps them from), and client_min_messages hides the warning that a wait was
cancelled (S15).  What a startup packet says is refused (startupsettings.py).  What a session says later cannot be refused
without understanding SQL; the words are looked for in its statements, so that it can be reported.

Source: PostgreSQL documentation, "synchronous_commit", "client_min_messages".  Pure.
"""

from __future__ import annotations

import re
from enum import Flag, auto

SYNCHRONOUS_COMMIT = "synchronous_commit"
CLIENT_MIN_MESSAGES = "client_min_messages"

_FULL_COMMITS = frozenset({"on", "true", "yes", "1"})
"""PostgreSQL's spellings of on. Whatever else there may be one day is refused."""
_HIDING_WARNINGS = frozenset({"error", "fatal", "panic"})


class Relaxed(Flag):
    """What a client has relaxed."""

    NONE = 0
    COMMITS = auto()
    """It spoke of another synchronous_commit than on."""
    WARNINGS = auto()
    """It spoke of a client_min_messages that hides warnings."""


def relaxed_by_setting(name: str, value: str) -> Relaxed:
    """Return what setting the parameter *name*, in lower case, to *value* relaxes."""
    if name == SYNCHRONOUS_COMMIT and value.strip().lower() not in _FULL_COMMITS:
        return Relaxed.COMMITS
    if name == CLIENT_MIN_MESSAGES and value.strip().lower() in _HIDING_WARNINGS:
        return Relaxed.WARNINGS
    return Relaxed.NONE


_WORDS = re.compile(rb"synchronous_commit|client_min_messages")

_HARMLESS = re.compile(
    rb"""(?x)
      \b (?: show | reset ) \s+ (?: synchronous_commit | client_min_messages )
    | \b current_setting \s* \( \s* '(?: synchronous_commit | client_min_messages )'
    | \b set \s+ (?: (?: session | local ) \s+ )? "?synchronous_commit"? \s* (?: = | \b to \b ) \s*
         (?: '? (?: on | true | yes | 1 )\b '? | default\b )
    | \b set_config \s* \( \s* 'synchronous_commit' \s* , \s* '(?: on | true | yes | 1 )'
    """
)

_NOT_HIDING = re.compile(
    rb"""(?x)
      \b client_min_messages '? \s* (?: = | \b to \b | , ) \s*
         (?: '? (?: debug[1-5]? | info | log | notice | warning )\b '? | default\b )
    """
)


def relaxed_by(statement: bytes) -> Relaxed:
    """Return what the text of a Query or Parse message speaks of.

    A word in a comment or a string counts too, and one that is put together at run time does not: it is a report, not a wall.
    """
    text = statement.lower()
    if b"synchronous_commit" not in text and b"client_min_messages" not in text:
        return Relaxed.NONE  # as nearly always; this much is done for every statement
    found = set(_WORDS.findall(_NOT_HIDING.sub(b"", _HARMLESS.sub(b"", text))))
    relaxed = Relaxed.COMMITS if b"synchronous_commit" in found else Relaxed.NONE
    return relaxed | Relaxed.WARNINGS if b"client_min_messages" in found else relaxed
