"""The network between simulated hosts: latency, loss, partitions in one direction or both, clogged links.

Two kinds of traffic.  A message (an order, an answer, a question) arrives once, late, twice or never.  A stream (WAL, its
acknowledgements, observations, frames) keeps its order; over a cut link it is held back until the link is whole again, unless
its connection was broken meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.sim.world import Owner, World

LOW_MS = 0.15
HIGH_MS = 0.9
LATE = 0.03
"""The share of messages that are late by up to LATE_MS, and of those that arrive twice."""
LATE_MS = 4000.0


class Stream(Owner):
    """One direction of a connection."""

    __slots__ = ("broken", "destination", "last_ms", "source")

    def __init__(self, source: str, destination: str) -> None:
        super().__init__()
        self.source = source
        self.destination = destination
        self.last_ms = 0.0
        self.broken = False


class Network:
    """Every link."""

    __slots__ = ("_blocked", "_held", "_world", "delay_ms", "late", "on_cut", "unreliable")

    def __init__(self, world: World) -> None:
        self._world = world
        self._blocked: dict[tuple[str, str], int] = {}
        self._held: dict[tuple[str, str], list[tuple[Stream | None, Owner | None, Callable[..., None], tuple[Any, ...]]]] = {}
        self.delay_ms: dict[tuple[str, str], float] = {}
        self.late = LATE
        self.unreliable = True
        """Whether messages may be late, twice or lost for no reason."""
        self.on_cut: list[Callable[[str, str, bool], None]] = []
        """Told of every link that is cut, and whether connections over it are reset at once."""

    def is_cut(self, source: str, destination: str) -> bool:
        """Return whether nothing gets from *source* to *destination*."""
        return self._blocked.get((source, destination), 0) > 0

    def cut(self, source: str, destination: str, *, reset: bool) -> None:
        """Let nothing pass in this direction any more. Cuts add up."""
        link = source, destination
        self._blocked[link] = self._blocked.get(link, 0) + 1
        for told in self.on_cut:
            told(source, destination, reset)

    def mend(self, source: str, destination: str) -> None:
        """Take one cut back; what was held arrives."""
        link = source, destination
        self._blocked[link] -= 1
        if self._blocked[link] == 0:
            for stream, owner, call, arguments in self._held.pop(link, []):
                if stream is None:
                    self._world.after(self._latency(link), owner, call, *arguments)
                elif not stream.broken:
                    self._schedule(stream, owner, call, arguments)

    def send(self, source: str, destination: str, owner: Owner | None, call: Callable[..., None], *arguments: Any) -> None:
        """Send one message: *call* is made at its arrival, on behalf of *owner*."""
        link, rng = (source, destination), self._world.rng
        if self._blocked.get(link):
            if rng.random() < 0.4:
                self._held.setdefault(link, []).append((None, owner, call, arguments))
            return
        latency = self._latency(link)
        if self.unreliable:
            dice, late = rng.random(), self.late
            if dice < late:
                self._world.counts["message late" if dice > late / 2 else "message twice"] += 1
                self._world.after(latency + rng.random() * LATE_MS, owner, call, *arguments)
                if dice > late / 2:
                    return
            elif dice < late * 1.5:
                self._world.counts["message lost"] += 1
                return
        self._world.after(latency, owner, call, *arguments)

    def stream(self, stream: Stream, owner: Owner | None, call: Callable[..., None], *arguments: Any) -> None:
        """Send the next thing on *stream*."""
        if stream.broken:
            return
        link = stream.source, stream.destination
        if self._blocked.get(link):
            self._held.setdefault(link, []).append((stream, owner, call, arguments))
            return
        self._schedule(stream, owner, call, arguments)

    def _schedule(self, stream: Stream, owner: Owner | None, call: Callable[..., None], arguments: tuple[Any, ...]) -> None:
        world = self._world
        at = max(stream.last_ms, world.now + self._latency((stream.source, stream.destination)))
        stream.last_ms = at
        world.after(at - world.now, owner, call, *arguments)

    def _latency(self, link: tuple[str, str]) -> float:
        extra = self.delay_ms.get(link)
        base = LOW_MS + (HIGH_MS - LOW_MS) * self._world.rng.random()
        return base if extra is None else base + extra
