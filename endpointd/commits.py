"""Whether a session asks for commits that are not covered by the promise, or would not hear that one was not.

An acknowledged commit survives a failover because the server waits for its copies before it answers.  A client can take that
away from itself: synchronous_commit says what a commit waits for (remote_apply too asks for something else: for standbys to
replay, which a conflict or a pause there keeps them from), and client_min_messages hides the warning that a wait was
cancelled (S15).  What stands in a startup packet is refused before a server is dialled.  What a session says later cannot be
refused without understanding SQL; the words are looked for in its statements, so that it can be reported.

Sources: PostgreSQL documentation, "synchronous_commit", "client_min_messages", "options" of libpq; the splitting and the
letters of `options` as in PostgreSQL's pg_split_opts and process_postgres_switches.  Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from enum import Flag, auto

from endpointd import refusal
from endpointd.refusal import Refusal
from pgtopology.document import Durability, Topology
from pgwire.startup import StartupMessage

SYNCHRONOUS_COMMIT = "synchronous_commit"
CLIENT_MIN_MESSAGES = "client_min_messages"

_FULL_COMMITS = frozenset({"on", "true", "yes", "1"})
"""PostgreSQL's spellings of on. Whatever else there may be one day is refused."""
_DEAF = frozenset({"error", "fatal", "panic"})

_LETTERS_WITH_VALUE = frozenset("BCDcdfhkNprStvW-")
"""Of a backend's command line; -c and -- set parameters, the others do not matter here."""


class Laxity(Flag):
    """What a session has done to the promise."""

    NONE = 0
    RELAXED = auto()
    """It spoke of another synchronous_commit than on."""
    DEAF = auto()
    """It spoke of a client_min_messages that hides warnings."""


def is_promised(topology: Topology | None) -> bool:
    """Return whether the cluster promises that acknowledged commits survive, and nobody may go without."""
    return is_quorum(topology) and topology is not None and not topology.desired.relaxed_commits


def is_quorum(topology: Topology | None) -> bool:
    """Return whether commits wait for copies at all."""
    return topology is not None and topology.durability is not Durability.ASYNC


def startup_refusal(message: StartupMessage) -> Refusal | None:
    """Return why *message* may not begin a session on a writer that keeps the promise, or None."""
    for name, value in settings_asked_for(message):
        laxity = _laxity(name, value)
        if Laxity.RELAXED in laxity:
            return refusal.commits_relaxed(value)
        if Laxity.DEAF in laxity:
            return refusal.warnings_hidden(value)
    return None


def startup_laxity(message: StartupMessage) -> Laxity:
    """Return what *message* asks for, wherever it may."""
    laxity = Laxity.NONE
    for name, value in settings_asked_for(message):
        laxity |= _laxity(name, value)
    return laxity


def _laxity(name: str, value: str) -> Laxity:
    if name == SYNCHRONOUS_COMMIT and value.strip().lower() not in _FULL_COMMITS:
        return Laxity.RELAXED
    if name == CLIENT_MIN_MESSAGES and value.strip().lower() in _DEAF:
        return Laxity.DEAF
    return Laxity.NONE


def settings_asked_for(message: StartupMessage) -> Iterator[tuple[str, str]]:
    """Yield name, in lower case, and value of each server parameter that a startup packet sets."""
    for name, value in message.parameters:
        if name == "options":
            yield from _settings_in_options(value)
        else:
            yield name.lower(), value


def _settings_in_options(text: str) -> Iterator[tuple[str, str]]:
    words = iter(_split_options(text))
    for word in words:
        if not word.startswith("-"):
            return  # the server refuses what follows
        pos = 1
        while pos < len(word):
            letter = word[pos]
            pos += 1
            if letter not in _LETTERS_WITH_VALUE:
                continue
            value = word[pos:] or next(words, "")
            if letter in "c-":
                name, _, setting = value.partition("=")
                yield name.replace("-", "_").lower(), setting
            break


def _split_options(text: str) -> list[str]:
    """Return the words of *text*: blanks part them, a backslash takes the next character as it is."""
    words: list[str] = []
    word: list[str] | None = None
    characters = iter(text)
    for character in characters:
        if character in " \t\n\v\f\r":
            if word is not None:
                words.append("".join(word))
            word = None
            continue
        word = word if word is not None else []
        word.append(next(characters, "") if character == "\\" else character)
    if word is not None:
        words.append("".join(word))
    return words


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

_LOUD = re.compile(
    rb"""(?x)
      \b client_min_messages '? \s* (?: = | \b to \b | , ) \s*
         (?: '? (?: debug[1-5]? | info | log | notice | warning )\b '? | default\b )
    """
)


def laxity_of(statement: bytes) -> Laxity:
    """Return what the text of a Query or Parse message speaks of.

    A word in a comment or a string counts too, and one that is put together at run time does not: it is a report, not a wall.
    """
    text = statement.lower()
    if b"synchronous_commit" not in text and b"client_min_messages" not in text:
        return Laxity.NONE  # as nearly always; this much is done for every statement
    found = set(_WORDS.findall(_LOUD.sub(b"", _HARMLESS.sub(b"", text))))
    laxity = Laxity.RELAXED if b"synchronous_commit" in found else Laxity.NONE
    return laxity | Laxity.DEAF if b"client_min_messages" in found else laxity
