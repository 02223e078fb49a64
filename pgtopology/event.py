"""One thing that happened to the cluster, as the manager's journal keeps it and GET /v1/events tells it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from pgtopology.document import FORMAT_VERSION

STEPS = ("begun", "detected", "published", "recruited", "elected", "promoted", "repointed", "opened", "rejoined")
"""Of a transition; its events are `failover.STEP`, those of a new cluster `bootstrap.STEP`."""

OPERATOR_KINDS = (
    "operator.command",
    "operator.config",
    "operator.failover",
    "operator.given_up",
    "operator.node",
    "operator.pause",
    "operator.resume",
    "operator.sessions",
    "operator.switchover",
    "operator.withdraw",
)

KINDS = (
    "plan",
    *(f"{transition}.{step}" for transition in ("bootstrap", "failover") for step in STEPS),
    "failover.held",
    "failover.judged",
    "node.change_failed",
    "node.change_given_up",
    "node.change_resumed",
    "node.gone",
    "node.made",
    "paused",
    "resumed",
    "sessions.ended",
    "settings.changed",
    "store.adopted",
    "voters.changed",
    "commits.relaxed",
    *OPERATOR_KINDS,
)
"""What events are about. A word before the dot stands for all that begin with it."""

NO_STORY = frozenset({"plan"})
"""Kinds that say what was thought and not what happened."""


def kinds_of(names: Iterable[str]) -> frozenset[str]:
    """Return the kinds that *names* stand for. Raises ValueError, saying which are known."""
    found: set[str] = set()
    for name in names:
        these = {kind for kind in KINDS if kind == name or kind.startswith(f"{name}.")}
        if not these:
            families = sorted({kind.partition(".")[0] for kind in KINDS})
            raise ValueError(f'there are no events of kind "{name}"; kinds are {", ".join(families)}, and their parts')
        found |= these
    return frozenset(found)


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that happened. The shape is part of the operator's contract (GET /v1/events)."""

    format_version: int = FORMAT_VERSION
    sequence: int
    at: str
    """Wall time, ISO 8601 in UTC, for people."""
    monotonic_ms: int
    """The manager's monotonic clock: differences are durations, within one run of the machine."""
    epoch: int
    kind: str
    node: str | None = None
    elapsed_ms: int | None = None
    """Since the failure was detected, for the steps of a failover."""
    message: str
    fields: dict[str, Any] = {}
