"""One thing that a tenant can do, as a value: by which deeds, how they are undone, and what may come of them.

Knows no cluster.  A deed is made by one of the functions below, so that a thing is one line of the table in `things`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal

Statement = str | bytes
"""Bytes go to the server as they are, so that a name may be in no encoding at all."""


class Manner(StrEnum):
    """How statements are given."""

    ONCE = "once"
    """One after the other, each a transaction of its own, and the session ends."""
    HELD = "held"
    """The session stays open with what its last statement left: a lock, a transaction, a statement that never ends."""
    LOOP = "loop"
    """Again and again, until the thing is undone."""
    COMMAND = "command"
    """No SQL: the arguments of endpointctl."""


Place = Literal["writer", "reader", "replicas", "nodes"]
"""The writer or the reader endpoint; or the own port of each node that is not the writer, or of each node."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Deed:
    """Some statements in one session, or in *count* sessions at the same time."""

    manner: Manner
    statements: tuple[Statement, ...]
    user: str = "postgres"
    database: str = "postgres"
    at: Place = "writer"
    count: int = 1
    named: str = "tenant"
    """The session's application_name."""
    options: str = ""
    """The session's startup options."""
    walsender: bool = False
    """A session of the replication protocol."""
    pause_s: float = 0.05
    """Of a loop, between two rounds."""
    must_fail: bool = False
    """Its errors are what it is for, and no refusal."""


def sql(
    *statements: Statement, user: str = "postgres", database: str = "postgres", at: Place = "writer", options: str = ""
) -> Deed:
    """Run *statements* once."""
    return Deed(manner=Manner.ONCE, statements=statements, user=user, database=database, at=at, options=options)


def held(*statements: Statement, count: int = 1, **more: Any) -> Deed:
    """Run *statements* in *count* sessions that stay open; the last one need not return."""
    return Deed(manner=Manner.HELD, statements=statements, count=count, **more)


def lock(relation: str, *, database: str = "postgres") -> Deed:
    """Hold an exclusive lock on *relation* in an open transaction."""
    return held("BEGIN", f"LOCK TABLE {relation} IN ACCESS EXCLUSIVE MODE", database=database)


def loop(*statements: Statement, count: int = 1, pause_s: float = 0.05, **more: Any) -> Deed:
    """Run *statements* for ever, in *count* sessions."""
    return Deed(manner=Manner.LOOP, statements=statements, count=count, pause_s=pause_s, **more)


def walsenders(count: int, *statements: Statement) -> Deed:
    """Hold *count* sessions of the replication protocol, none of which reads what its last statement sends."""
    return Deed(manner=Manner.HELD, statements=statements or ("IDENTIFY_SYSTEM",), count=count, walsender=True)


def ctl(*arguments: str) -> Deed:
    """Give an order with endpointctl."""
    return Deed(manner=Manner.COMMAND, statements=arguments)


def back(*statements: Statement, database: str = "keeper") -> Deed:
    """Undo with *statements*, as the keeper (`keeper`)."""
    return Deed(manner=Manner.ONCE, statements=statements, database=database)


def back_everywhere(*statements: Statement) -> Deed:
    """Undo with *statements* on each node."""
    return Deed(manner=Manner.ONCE, statements=statements, database="keeper", at="nodes")


class Ends(StrEnum):
    """What must come of a thing."""

    WELL = "well"
    """There is a writer again within the bound, or the thing was refused, or undone by the cluster, before anything ended."""
    REFUSED = "refused"
    """It must be refused."""
    TOLD = "told"
    """Nothing can save a cluster from it; status must say so beforehand, by its name, and it must heal once it is undone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Thing:
    """One row of the table."""

    name: str
    deeds: tuple[Deed, ...]
    undo: tuple[Deed, ...] = ()
    """Done by the keeper (`keeper`), who was here before; what is held, or done in a loop, ends by itself."""
    ends: Ends = Ends.WELL
    tells: str = ""
    """A regular expression that the words of status must match, if status says that a failover would fail."""
    locks_out: bool = False
    """Nobody can log in or write while it lasts, by PostgreSQL's own rules; that there is a writer is status's word then."""
    spared: bool = False
    """Nothing heals a cluster whose writer ends while it lasts: the writer is left alone, and what is told is judged."""
    by_standing: bool = False
    """It is undone in a session that the keeper has had on each node since before: nobody can open another."""
    settle_s: float = 2.0
    """How long it works before the blow."""
    since: int = 0
    """The first major version of PostgreSQL that knows it."""
    until: int = 99
    fast: bool = False
    """Played with every change."""
