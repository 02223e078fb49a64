"""The server parameters that a startup packet sets, and which of them no session on the writer may begin with.

Sources: PostgreSQL documentation, "options" of libpq; the splitting and the letters of `options` as in PostgreSQL's
pg_split_opts and process_postgres_switches.  Pure.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator

from endpointd import refusal
from endpointd.refusal import Refusal
from endpointd.relay.relaxed import Relaxed, relaxed_by_setting
from pgwire.startup import StartupMessage

_LETTERS_WITH_VALUE = frozenset("BCDcdfhkNprStvW-")
"""Of a backend's command line; -c and -- set parameters, the others do not matter here."""


@functools.lru_cache(maxsize=256)
def refused_at_startup(message: StartupMessage) -> Refusal | None:
    """Return why *message* may not begin a session on a writer that keeps the promise, or None."""
    for name, value in settings_asked_for(message):
        relaxed = relaxed_by_setting(name, value)
        if Relaxed.COMMITS in relaxed:
            return refusal.commits_relaxed(value)
        if Relaxed.WARNINGS in relaxed:
            return refusal.warnings_hidden(value)
    return None


_NOT_RESET = frozenset({"role", "session_authorization", "replication"})
"""`DISCARD ALL` does not bring back what a startup packet has made of the first two; the last makes another protocol of it."""


@functools.lru_cache(maxsize=256)
def may_be_shared(message: StartupMessage) -> bool:
    """Return whether a session that began with *message* can be made what it was then, when its client has left."""
    return not message.options and not any(name in _NOT_RESET for name, _ in settings_asked_for(message))


@functools.lru_cache(maxsize=256)
def relaxed_at_startup(message: StartupMessage) -> Relaxed:
    """Return what *message* asks for, wherever it may."""
    relaxed = Relaxed.NONE
    for name, value in settings_asked_for(message):
        relaxed |= relaxed_by_setting(name, value)
    return relaxed


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
