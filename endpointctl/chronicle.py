"""How what happened looks to people: events past writers, the manager's explanation. Pure; prints nothing."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable

import msgspec
from rich.console import RenderableType

from daemonkit.escape import visible_value
from endpointctl.listing import Column, Listing, Row, or_dash
from pgtopology.event import Event
from pgtopology.explanation import Explanation
from pgtopology.history import PastWriter

MESSAGE_CELLS = 40
"""An event's message beside what stands before it has at least so much room, or is below it."""


def event_line(event: Event) -> str:
    """Return one event as one line."""
    event = visible_value(event)
    return "  ".join((*_event_words(event), event.message)).rstrip()


def event_lines(event: Event, width: int | None) -> list[str]:
    """Return one event for a terminal of *width* cells, its message wrapped between words; None: on one line."""
    if width is None:
        return [event_line(event)]
    event = visible_value(event)
    head = "  ".join((*_event_words(event), ""))
    if width - len(head) >= MESSAGE_CELLS:
        return textwrap.wrap(f"{head}{event.message}", width, subsequent_indent=" " * len(head))
    short = textwrap.wrap("  ".join(word.strip() for word in _event_words(event) if word.strip() not in ("", "-")), width)
    return [*short, *textwrap.wrap(event.message, width, initial_indent="    ", subsequent_indent="    ")]


def _event_words(event: Event) -> tuple[str, ...]:
    return (
        event.at,
        f"{event.sequence:>5}",
        f"epoch {event.epoch}",
        f"{event.kind:<22}",
        f"{event.node or '-':<4}",
        f"{event.elapsed_ms:>6} ms" if event.elapsed_ms is not None else " " * 9,
    )


HISTORY_COLUMNS = (
    Column("epoch", is_right=True),
    Column("timeline", is_right=True),
    Column("from"),
    Column("at lsn"),
    Column("writer", is_head=True),
    Column("since", is_head=True),
    Column("kind"),
    Column("cause"),
    Column("outage"),
)


def history_view(writers: Iterable[PastWriter]) -> RenderableType:
    """Return the timelines and who led on them, the newest last."""
    return Listing(HISTORY_COLUMNS, map(_past_writer, map(visible_value, writers)))


def _past_writer(one: PastWriter) -> Row:
    return Row(
        (
            str(one.epoch),
            str(one.timeline),
            str(one.parent),
            one.fork_lsn,
            one.node if one.opened else f"{one.node} (never opened)",
            or_dash(one.at),
            or_dash((one.outage_kind or one.kind or "").replace("_", " ") or None),
            or_dash(one.cause),
            f"{one.outage_ms} ms" if one.outage_ms is not None else "-",
        )
    )


def explanation_lines(explanation: Explanation) -> list[str]:
    """Return the manager's explanation as lines, its events one a line."""
    explanation = visible_value(explanation)
    told = msgspec.to_builtins(explanation)
    for name in ("format_version", "recent", *(("pending",) if explanation.pending is None else ())):
        del told[name]
    events = [f"  {event_line(event)}" for event in explanation.recent]
    return [*outline(told), "recent:" if events else "recent: none", *events]


def outline(document: object, indent: int = 0) -> list[str]:
    """Return a JSON document as indented lines, for answers whose shape is for people."""
    space = "  " * indent
    match document:
        case dict():
            lines: list[str] = []
            for key, value in document.items():
                if isinstance(value, dict | list | tuple) and value:
                    lines += [f"{space}{key}:", *outline(value, indent + 1)]
                else:
                    lines.append(f"{space}{key}: {_scalar(value)}")
            return lines
        case list() | tuple():
            lines = []
            for item in document:
                first, *rest = outline(item, indent + 1) or [f"{space}  -"]
                lines += [f"{space}- {first.strip()}", *rest]
            return lines
        case _:
            return [f"{space}{_scalar(document)}"]


def _scalar(value: object) -> str:
    match value:
        case None:
            return "-"
        case bool():
            return "yes" if value else "no"
        case list() | tuple() | dict():
            return "none"
        case _:
            return str(value)
