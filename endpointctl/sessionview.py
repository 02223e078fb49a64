"""How sessions look: a table for people, one document for programs. Pure; prints nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
from rich.console import Group, RenderableType
from rich.text import Text

from daemonkit.escape import visible
from endpointctl.listing import Column, Listing, Row
from pgtopology.sessions import SessionId, SessionView

FORMAT_VERSION = 1
_COLUMNS = (
    Column("id", is_head=True),
    Column("user", is_head=True),
    Column("database", is_head=True),
    Column("client"),
    Column("endpoint"),
    Column("node"),
    Column("pid", is_right=True),
    Column("state", is_head=True),
    Column("age", is_right=True),
    Column("in", is_right=True),
    Column("out", is_right=True),
    Column("tls"),
    Column("application"),
)
"""`in` is what the client sent, `out` what it was sent."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What all proxies told."""

    sessions: Mapping[SessionId, SessionView]
    proxies: tuple[str, ...]
    silent: tuple[str, ...]

    def sorted(self, by: str) -> list[tuple[SessionId, SessionView]]:
        """Return the sessions by *by*: numbers from the greatest down, words from the first up; equal ones by id."""
        return sorted(self.sessions.items(), key=lambda item: (_SORTS[by](item[1]), item[0]))


_SORTS: dict[str, Callable[[SessionView], Any]] = {
    "id": lambda _: 0,
    "age": lambda view: -view.age_s,
    "bytes": lambda view: -(view.to_server_bytes + view.to_client_bytes),
    "user": lambda view: view.user or "",
    "database": lambda view: view.database or "",
    "client": lambda view: view.client,
    "node": lambda view: view.node or "",
    "state": lambda view: view.activity,
}


def document(seen: Seen, by: str, limit: int | None) -> bytes:
    """Return *seen* for programs; at most *limit* of the sessions, all if it is None."""
    rows = [
        {"id": str(one), "proxy": one.proxy, "activity": view.activity, **msgspec.structs.asdict(view)}
        for one, view in seen.sorted(by)[:limit]
    ]
    return msgspec.json.encode(
        {
            "format_version": FORMAT_VERSION,
            "count": len(seen.sessions),
            "sessions": rows,
            "proxies": seen.proxies,
            "silent": seen.silent,
        }
    )


_TELLS_NOTHING = "does not tell its sessions: cut off, standing still, or of an older version"
_TELLS_NOT_ALL = "does not tell all its sessions: one of its processes is cut off or stands still"


def sessions_view(seen: Seen, by: str, limit: int) -> RenderableType:
    """Return *seen* for people, at most *limit* of the sessions."""
    shown = seen.sorted(by)[:limit]
    count = len(seen.sessions)
    heard = {one.proxy for one in seen.sessions}
    head = f"{counted(count)} at {', '.join(sorted({*seen.proxies, *heard})) or 'no proxy'}"
    parts: list[RenderableType] = [Text(visible(head), style="bold")]
    parts += [
        Text(
            visible(f"{name} {_TELLS_NOT_ALL if name in heard else _TELLS_NOTHING}"),
            style="bold red",
        )
        for name in seen.silent
    ]
    if shown:
        parts.append(Listing(_COLUMNS, [_row(one, view) for one, view in shown]))
    if count > len(shown):
        parts.append(Text(f"{count - len(shown)} more; --limit shows more of them, a filter fewer"))
    return Group(*parts)


def counted(number: int) -> str:
    """Return so many sessions in words."""
    return "1 session" if number == 1 else f"{number} sessions"


def _row(one: SessionId, view: SessionView) -> Row:
    role = {True: " (writer)", False: " (replica)", None: ""}[view.is_writer]
    cells = (
        str(one),
        view.user or "-",
        view.database or "-",
        view.client,
        view.endpoint,
        f"{view.node}{role}" if view.node is not None else "-",
        str(view.backend_pid) if view.backend_pid is not None else "-",
        view.activity.replace("_", " "),
        duration(view.age_s),
        size(view.to_server_bytes),
        size(view.to_client_bytes),
        view.tls or "-",
        view.application_name or "-",
    )
    notes = (visible(view.waits),) if view.waits is not None else ()
    return Row(tuple(map(visible, cells)), notes)


def duration(seconds: float) -> str:
    """Return *seconds* in the two units that matter."""
    whole = int(seconds)
    if whole < 60:
        return f"{seconds:.1f} s"
    for unit, below, name, smaller in ((60, 3600, "min", "s"), (3600, 86_400, "h", "min")):
        if whole < below:
            rest = whole % unit // (unit // 60)
            return f"{whole // unit} {name} {rest} {smaller}"
    return f"{whole // 86_400} d {whole % 86_400 // 3600} h"


def size(count: int) -> str:
    """Return *count* bytes with the prefix that keeps it short."""
    if count < 1000:
        return f"{count} B"
    scaled = float(count)
    for prefix in ("k", "M", "G"):
        scaled /= 1000
        if scaled < 999.5:
            return f"{scaled:.3g} {prefix}B"
    return f"{scaled / 1000:.3g} TB"
