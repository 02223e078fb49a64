"""What others may know of the sessions of this proxy, and what operators have done to them.

Looks at a bounded number of sessions in one go: ten thousand of them are no reason to keep anybody's bytes waiting.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from daemonkit.logs import get_logger
from endpointd import refusal
from endpointd.refusal import shown
from endpointd.session.registry import SessionRegistry
from endpointd.session.session import Session
from pgtopology.sessions import PAGE_SESSIONS, SessionFilter, SessionOrder, SessionQuestion, SessionsPage, SessionView

LOOKED_AT_MAX = 200
"""Sessions between two turns of the loop: two milliseconds."""


class Roster:
    """The sessions of the proxy called *name*, for people."""

    def __init__(self, name: str, registry: SessionRegistry) -> None:
        self.name = name
        """Changes when another process takes over, whose sessions have the former one."""
        self._registry = registry
        self._loop = asyncio.get_running_loop()

    async def find(self, which: SessionFilter, *, after: int = 0) -> AsyncIterator[tuple[Session, SessionView]]:
        """Yield the sessions that are meant, of those that are in now, by number; those up to number *after* are left out."""
        looked_at = 0
        for session in self._registry:
            if session.number <= after or (which.numbers is not None and session.number not in which.numbers):
                continue
            looked_at += 1
            if looked_at % LOOKED_AT_MAX == 0:
                await asyncio.sleep(0)
            view = view_of(session, self._loop.time())
            if which.takes(view):
                yield session, view

    async def answer(self, question: SessionQuestion) -> AsyncIterator[SessionsPage]:
        """Do what *question* says and yield what there is to tell; the last page says that it is the last."""
        views: list[SessionView] = []
        ended = 0
        async for session, view in self.find(question.which):
            if question.order is SessionOrder.END:
                if not session.terminate(refusal.terminated()):
                    continue
                ended += 1
            views.append(view)
            if len(views) == PAGE_SESSIONS:
                yield SessionsPage(question=question.id, proxy=self.name, sessions=tuple(views))
                views.clear()
        if ended:
            get_logger().info("sessions ended by an operator", count=ended)
        yield SessionsPage(question=question.id, proxy=self.name, is_last=True, sessions=tuple(views))


def view_of(session: Session, now: float) -> SessionView:
    """Return *session* as others may see it; *now* is the loop's clock."""
    startup, facts, backend = session.startup, session.facts, session.backend
    return SessionView(
        session=session.number,
        endpoint=session.door.name,
        client=session.peer,
        state=session.state,
        doing=facts.doing if facts is not None else None,
        node=backend.node if backend is not None else None,
        is_writer=backend.is_writer if backend is not None else None,
        backend_pid=session.backend_pid,
        user=shown(startup.user) if startup is not None else None,
        database=shown(startup.database) if startup is not None else None,
        application_name=shown(startup.get("application_name") or "") if startup is not None else None,
        is_reused=session.is_reused,
        tls=session.tls_version,
        engine=facts.engine if facts is not None else None,
        waits=session.waits,
        age_s=round(now - session.opened_at, 3),
        to_server_bytes=facts.to_server_bytes if facts is not None else 0,
        to_client_bytes=facts.to_client_bytes if facts is not None else 0,
        held_bytes=facts.held_bytes if facts is not None else 0,
    )
