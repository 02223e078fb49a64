"""What the supervisor of a local cluster is told on its Unix socket, and what it answers: one line of JSON each.

One order per connection.  A `shutdown` is answered by lines of progress until it is done; everything else by one line.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

import msgspec

from pgtopology.document import FORMAT_VERSION


class ProgramState(StrEnum):
    """What a program is doing."""

    RUNNING = "running"
    PAUSING = "pausing"
    """It ended and is about to be started again."""
    STOPPED = "stopped"
    FAILED = "failed"
    """It refuses its settings, and is tried again."""


class ProgramReport(msgspec.Struct, frozen=True, kw_only=True):
    """What the supervisor tells of a program."""

    name: str
    state: ProgramState
    pid: int | None
    restarts: int
    adopted: bool
    last_exit: int | None
    """Exit code of the last end, minus the signal if one ended it; None if unknown."""
    reason: str = ""
    """Why it ended without an order: what it said last, or the signal; empty once it serves again, or if nobody knows."""
    draining: tuple[int, ...] = ()
    """Processes that were relieved and have sessions left."""


class PlannedNode(msgspec.Struct, frozen=True, kw_only=True):
    """One PostgreSQL server of a local cluster with its noded."""

    name: str
    zone: str
    port: int
    noded_port: int


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What the supervisor is told to do."""

    do: Literal["list", "start", "stop", "relieve", "add", "remove", "shutdown", "hurry"]
    """start, stop and relieve (another process takes over) are about one program, add and remove about one node; shutdown is
    about all, hurry makes it harsh."""
    name: str | None = None
    zone: str | None = None
    """Of a node to be added."""
    rehearse: bool = False
    """Of a node to be added: only say which one it would be, or what is against it."""
    purge: bool = False
    """Whether the data of a node to be removed goes too."""
    marked: bool = False
    """Of a node to be removed: the manager gives the order, and has written down that it leaves."""
    operator: str = ""
    command: str = ""
    """Who orders it and by what, for the manager's journal."""


class Answer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line of the supervisor's answer; the last one has *done* or *error*."""

    done: bool = False
    error: str | None = None
    progress: str | None = None
    pid: int | None = None
    """The supervisor's own."""
    programs: tuple[ProgramReport, ...] = ()
    node: PlannedNode | None = None
    """The one that was added."""
    gone: bool = False
    """Of a node that the manager has taken away: there is none of that name, and nothing left to do about it."""


class AddNode(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What POST /v1/nodes carries: a node more."""

    name: str | None = None
    """None: the first that is free."""
    zone: str | None = None


class NodeAdded(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to it."""

    node: PlannedNode
    format_version: int = FORMAT_VERSION
