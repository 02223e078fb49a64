"""Rehearses a switchover for an operator: whether it is possible, to whom, by which steps, and for how long.

Pure: it goes by the view and by what earlier transitions took; nothing is ordered and nothing changes.
"""

from __future__ import annotations

from collections.abc import Iterable
from statistics import median

from cluster_manager.decision.carrying import awaited_with, lost_with
from cluster_manager.decision.refusal import heir, refusal, slots_not_there
from cluster_manager.decision.request import Request
from cluster_manager.decision.view import View
from pgtopology.document import TransitionKind
from pgtopology.drill import Readiness
from pgtopology.event import Event
from pgtopology.handover import Rehearsal

ARCHIVE_SLOW_MS = 5000
"""A file of WAL that has waited for longer is not on its way."""


def news_refusal(asked: Request, told: Readiness | None) -> str | None:
    """Return why a switchover waits for slots that were made so lately that nothing is known of their copies, or None."""
    news = () if asked.allow_slot_loss else _news(told)
    return slots_not_there(news) if news else None


def _news(told: Readiness | None) -> tuple[str, ...]:
    slots = told.new_slots if told is not None else ()
    return tuple(f'the slot "{name}" was made a moment ago, and nobody has said that it has a copy' for name in slots)


def _archiver(told: Readiness | None) -> str | None:
    if told is None or told.archive_ms < ARCHIVE_SLOW_MS:
        return None
    return (
        f'the archiver of "{told.node}" is behind: {told.archive_files} files of WAL wait, the oldest for '
        f"{told.archive_ms / 1000:.0f} s; a stop in good order waits for it, and is cut short when the pause has lasted "
        "as long as it may"
    )


def rehearse_switchover(view: View, asked: Request, events: Iterable[Event], told: Readiness | None = None) -> Rehearsal:
    """Return what the switchover that *asked* names would do now.

    *events* are the past it is measured by; *told* is what the writer says of its sessions, if it does.
    """
    timings = view.timings
    drain_ms = round(asked.drain_ms if asked.drain_ms is not None else timings.drain_ms)
    obstacle = refusal(view, asked) or news_refusal(asked, told)
    document = view.document
    writer = document.writer if document is not None else None
    to = asked.to if asked.to is not None or document is None else heir(view)
    awaited = () if asked.allow_slot_loss or to is None else (*awaited_with(view, to), *_news(told))
    opened = [event for event in events if event.kind == "failover.opened" and event.elapsed_ms is not None]
    planned = [event for event in opened if event.fields.get("transition") == TransitionKind.SWITCHOVER]
    pauses_ms = [event.elapsed_ms or 0 for event in planned or opened]
    expected_ms = round(median(pauses_ms)) if pauses_ms else None
    if expected_ms is not None and told is not None and told.open_count:
        expected_ms += drain_ms
    return Rehearsal(
        possible=obstacle is None,
        obstacle=obstacle,
        from_node=writer,
        to=to,
        expected_ms=expected_ms,
        drain_ms=drain_ms,
        bound_ms=round(drain_ms + timings.handover_ms + timings.heir_ms),
        client_sessions=told.client_sessions if told is not None and told.open_count is not None else None,
        replication_sessions=told.replication_sessions if told is not None else 0,
        archiver=_archiver(told),
        open_count=told.open_count if told is not None else None,
        open_sessions=told.open_sessions if told is not None else (),
        slots_awaited=awaited,
        slots_lost=lost_with(view, to) if to is not None else (),
        steps=()
        if to == writer
        else (
            f'a checkpoint on "{writer}"',
            f"new writers are held, sessions may finish for up to {drain_ms / 1000:g} s",
            f'PostgreSQL on "{writer}" is stopped in good order and started as a standby',
            f'"{to}" is promoted, because it holds everything; else "{writer}" is promoted again',
            "writers go on; readers and the old primary follow",
        ),
    )
