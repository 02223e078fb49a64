"""The sessions that live, of all doors, by number."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator

from endpointd.session.session import Session
from pgtopology.document import Topology


class SessionRegistry:
    """The sessions, of every state."""

    def __init__(self, *, first: int = 1, step: int = 1) -> None:
        """Several processes of one proxy number their sessions in turns: each *step*th number from *first* is ours."""
        self._sessions: dict[int, Session] = {}
        self.upcoming = first
        """The number that the next one will have."""
        self._step = step
        self._empty = asyncio.Event()
        self._empty.set()
        self.bytes_of_ended: Counter[tuple[str, str]] = Counter()
        """By endpoint and direction."""

    def __len__(self) -> int:
        return len(self._sessions)

    def __iter__(self) -> Iterator[Session]:
        """Return those who are in now; they may leave meanwhile."""
        return iter(tuple(self._sessions.values()))

    def next_number(self) -> int:
        """Return a number that no session has had."""
        number, self.upcoming = self.upcoming, self.upcoming + self._step
        return number

    def enter(self, session: Session) -> None:
        """Let *session* in."""
        self._sessions[session.number] = session
        self._empty.clear()

    def leave(self, session: Session) -> None:
        """*session* has ended."""
        del self._sessions[session.number]
        for direction, count in session.bytes_moved():
            self.bytes_of_ended[session.door.name, direction] += count
        if not self._sessions:
            self._empty.set()

    def relaxed_sessions(self, topology: Topology | None) -> int:
        """Return how many sessions on a writer whose commits wait for copies may have commits that do not."""
        if topology is None or not topology.waits_for_copies:
            return 0
        return sum(1 for session in self._sessions.values() if session.is_relaxed)

    async def wait_until_empty(self, timeout_s: float) -> bool:
        """Wait until everybody has left, or the time is over; return whether they have."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._empty.wait()
        except TimeoutError:
            return False
        return True
