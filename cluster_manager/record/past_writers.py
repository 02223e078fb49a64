"""Who led on which timeline, from the document's claims and the journal's events.

Pure.  The document knows every timeline that was ever claimed; only the journal knows why, when, and for how long nobody could
write, and it may have forgotten.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from pgtopology.document import Topology
from pgtopology.event import Event
from pgtopology.history import PastWriter
from pgtopology.lsn import format_lsn

JUDGED = "failover.judged"
"""The event that says, once the old writer's noded is heard, of which kind the outage before the opening of its epoch was."""

STARTED = "bootstrap.opened"
"""The event of a cluster's first writer: nobody waited for it."""


def outage_of(event: Event) -> int | None:
    """Return the outage that *event* ended, in milliseconds, or None if it does not tell."""
    found = event.fields.get("outage_ms")
    return found if isinstance(found, int) else None


def as_judged(opened: Event, judged: Event | None) -> Event:
    """Return the event *opened* with what *judged*, if there is one, says of its outage."""
    return msgspec.structs.replace(opened, fields={**opened.fields, **judged.fields}) if judged is not None else opened


def past_writers(document: Topology | None, events: Iterable[Event]) -> tuple[PastWriter, ...]:
    """Return the claimed timelines of *document*, the newest last, each with what *events* tell of it."""
    told = tuple(events)
    judged = {event.epoch: event for event in told if event.kind == JUDGED}
    opened = {event.epoch: as_judged(event, judged.get(event.epoch)) for event in told if event.kind.endswith(".opened")}
    writers: list[PastWriter] = []
    for record in document.timelines if document is not None else ():
        event = opened.get(record.epoch)
        writers.append(
            PastWriter(
                timeline=record.timeline,
                parent=record.parent,
                fork_lsn=format_lsn(record.fork_lsn),
                epoch=record.epoch,
                node=record.node,
                opened=record.opened,
                kind=str(event.fields.get("transition", "")) if event is not None else None,
                cause=(str(event.fields.get("cause", "")) or None) if event is not None else None,
                outage_ms=outage_of(event) if event is not None and event.kind != STARTED else None,
                since_detection_ms=event.elapsed_ms if event is not None and event.kind != STARTED else None,
                outage_kind=(str(event.fields.get("outage_kind", "")) or None) if event is not None else None,
                at=event.at if event is not None else None,
            )
        )
    return tuple(writers)
