"""How the wanted voters differ from the recorded ones, and which side of a change goes first: the record or PostgreSQL (S9).

A commit is acknowledged by the list in force, and looked for by the record.  So what has an election ask more voters (a wider
list, fewer copies) is recorded first, and what has it ask fewer is in force, and proven, first.  `TABLE` is all there is to
know; `voter_changes` carries it out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from pgtopology.quorum import Voters


class Difference(StrEnum):
    """How the wanted voters differ from the recorded ones: one step, of one of these kinds."""

    NEW_DATA = "new data"
    WIDER = "wider"
    FEWER_COPIES = "fewer copies"
    NARROWER = "narrower"
    MORE_COPIES = "more copies"
    """A greater w; the second voter of all comes with it."""


class First(StrEnum):
    """On which side a step begins, so that an election by the record never misses what the list in force acknowledged."""

    RECORD = "record"
    POSTGRESQL = "postgresql"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """Who goes first, and what people read of it; *who* is the voter it is about, *w* the wanted number of copies."""

    first: First
    put_in_force: str = ""
    waits: str = ""
    recorded: str
    because: str


TABLE: Mapping[Difference, Row] = {
    Difference.NEW_DATA: Row(
        first=First.RECORD,
        recorded='"{who}" votes with its new data',
        because='"{who}" is whole again',
    ),
    Difference.WIDER: Row(
        first=First.RECORD,
        recorded='"{who}" becomes a voter',
        because='"{who}" streams and is whole',
    ),
    Difference.FEWER_COPIES: Row(
        first=First.RECORD,
        recorded="w={w} is recorded",
        because="a voter leaves, and fewer copies are needed",
    ),
    Difference.NARROWER: Row(
        first=First.POSTGRESQL,
        put_in_force='"{who}" leaves the list in force',
        waits='the list without "{who}" is in force; waiting for its barrier commit',
        recorded='"{who}" is no voter any more',
        because='"{who}" leaves',
    ),
    Difference.MORE_COPIES: Row(
        first=First.POSTGRESQL,
        put_in_force="w={w} is put in force",
        waits="w={w} is in force; waiting for its barrier commit",
        recorded="w={w} is recorded",
        because="w={w} is in force and proven",
    ),
}
"""What differs, and who goes first (S9)."""


def difference(recorded: Voters, wanted: Voters) -> Difference:
    """Return how *wanted*, which is one step from *recorded*, differs from it."""
    if wanted.w != recorded.w:
        return Difference.MORE_COPIES if wanted.w > recorded.w else Difference.FEWER_COPIES
    if len(wanted.members) == len(recorded.members):
        return Difference.NEW_DATA
    return Difference.WIDER if len(wanted.members) > len(recorded.members) else Difference.NARROWER
