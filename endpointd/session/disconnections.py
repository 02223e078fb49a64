"""How connections end: one line in the log and one more in a counter for each.

What is out of the ordinary is worth a line at level info: a refusal, an eviction, a login that failed.  A thousand clients that
are refused for one reason in a moment are one story, so of each (endpoint, kind) only the first few within a window get a line
of their own; how many more there were is said when the window closes.  Kinds are words of ours, so everything here is bounded.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from daemonkit.logs import are_written, get_logger
from endpointd import metrics

LINES_MAX = 5
WINDOW_S = 10.0

ORDINARY = frozenset({"client_left", "server_ended", "cancel_request"})
"""Ends that are worth a line at level debug only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Disconnection:
    """How one connection ended."""

    endpoint: str
    session: int
    client: str
    kind: str
    """A refusal's kind, or a word of the conversation's or the session's own."""
    reason: str
    """For people."""
    sqlstate: str | None
    """What the client was told, if it was told anything."""
    is_ours: bool
    """Whether the proxy said it, not the server."""
    had_session: bool
    """Whether it stood; else the login failed."""
    age_s: float
    node: str | None
    user: str | None
    database: str | None
    application_name: str | None


class Disconnections:
    """Tells of them."""

    def __init__(self) -> None:
        self._lines: dict[tuple[str, str], int] = {}
        self._log = get_logger()

    def ignores(self, kind: str, *, had_session: bool) -> bool:
        """Return whether there is nothing to tell of an end of this *kind*, which is none of ours."""
        return kind in ORDINARY and had_session and not are_written("debug")

    def note(self, ending: Disconnection) -> None:
        """Count it, and write its line if it gets one."""
        if ending.sqlstate is not None and ending.is_ours:
            metrics.REFUSALS.labels(ending.endpoint, ending.sqlstate).inc()
        if ending.kind not in ORDINARY or not ending.had_session:
            counter = metrics.EVICTIONS if ending.had_session else metrics.STARTUP_FAILURES
            if ending.kind != "cancel_request":
                counter.labels(ending.endpoint, ending.kind).inc()
        say = self._log.info if ending.kind not in ORDINARY and self._gets_a_line(ending) else self._log.debug
        say(
            "session ended" if ending.had_session else "connection ended",
            endpoint=ending.endpoint,
            session=ending.session,
            client=ending.client,
            kind=ending.kind,
            reason=ending.reason,
            sqlstate=ending.sqlstate,
            age_s=round(ending.age_s, 3),
            node=ending.node,
            user=ending.user,
            database=ending.database,
            application_name=ending.application_name,
        )

    def _gets_a_line(self, ending: Disconnection) -> bool:
        key = ending.endpoint, ending.kind
        if key not in self._lines:
            self._lines[key] = 0
            asyncio.get_running_loop().call_later(WINDOW_S, self._close_window, key)
        self._lines[key] += 1
        return self._lines[key] <= LINES_MAX

    def _close_window(self, key: tuple[str, str]) -> None:
        more = self._lines.pop(key) - LINES_MAX
        if more > 0:
            endpoint, kind = key
            self._log.info("more connections ended in the same way", endpoint=endpoint, kind=kind, count=more)
