"""Why a session keeps its server. Values, and their numbers in the native engine."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum


class Pin(StrEnum):
    """What a session has done that another user of its server would find, or that it would miss at another server."""

    LONG_STATEMENT = "long_statement"
    """A statement too long to be looked at."""
    SETTING = "setting"
    """SET, but for a transaction alone."""
    SET_CONFIG = "set_config"
    TEMPORARY_OBJECT = "temporary_object"
    LISTEN = "listen"
    ADVISORY_LOCK = "advisory_lock"
    """One of the session's."""
    HELD_CURSOR = "held_cursor"
    """DECLARE ... WITH HOLD."""
    SQL_PREPARE = "sql_prepare"
    """PREPARE, EXECUTE or DEALLOCATE as statements. Prepared statements of the protocol are no reason."""
    LOAD = "load"
    SEQUENCE_VALUE = "sequence_value"
    """currval or lastval."""
    RANDOM_SEED = "random_seed"
    EXTENSION_STATE = "extension_state"
    """A named connection of dblink, a replication origin."""
    DO_BLOCK = "do_block"
    """What is in it is not looked at."""
    NOT_PARSED = "not_parsed"
    """pglast is not installed, or does not understand a statement that has a suspicious word."""

    @property
    def number(self) -> int:
        """As the native engine knows it."""
        return _NUMBERS[self]

    @classmethod
    def of(cls, number: int) -> Pin | None:
        """Return the reason with this number; None for 0."""
        return _PINS[number - 1] if number else None


_PINS = tuple(Pin)
_NUMBERS = {pin: number for number, pin in enumerate(_PINS, 1)}

OUTLASTS_DISCARD = frozenset({Pin.LONG_STATEMENT, Pin.LOAD, Pin.RANDOM_SEED, Pin.EXTENSION_STATE, Pin.DO_BLOCK, Pin.NOT_PARSED})
"""What DISCARD ALL does not undo, or nobody knows whether it does."""

FORGETS_STATEMENTS = 0x80
"""In a verdict, beside a reason's number: what was prepared at the server may be gone (native/suspect.h)."""
OUTLASTS = 0x40
"""In a verdict: the session keeps its server also after DISCARD ALL."""


def verdict_of(pins: Iterable[Pin], *, forgets: bool) -> int:
    """Return the verdict over a statement that pins for *pins*, of which the first one counts as the reason.

    *forgets*: it makes the server forget what is prepared.
    """
    found = tuple(pins)
    verdict = found[0].number if found else 0
    if not OUTLASTS_DISCARD.isdisjoint(found):
        verdict |= OUTLASTS
    return verdict | (FORGETS_STATEMENTS if forgets else 0)
