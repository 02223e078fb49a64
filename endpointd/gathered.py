"""What a proxy tells over HTTP of all its processes: the main one asks its workers."""

from __future__ import annotations

import os
from collections.abc import Iterable

import msgspec
from prometheus_client import REGISTRY, generate_latest
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from endpointd.roster import Roster
from endpointd.workers.crew import Crew
from endpointd.workers.gathering import Family, Tally, families_of
from endpointd.workers.words import Asked
from pgtopology.sessions import SessionFilter, SessionView

_families = msgspec.msgpack.Decoder(tuple[Family, ...])
_views = msgspec.msgpack.Decoder(list[SessionView])


class FamiliesCollector(Collector):
    """Has what was collected already."""

    def __init__(self, metrics: list[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        """Return it."""
        return self._metrics


class Gathered:
    """This process and its workers."""

    def __init__(self, roster: Roster, crew: Crew) -> None:
        self._roster = roster
        self._crew = crew
        self._tally = Tally()

    async def metrics(self) -> bytes:
        """Return the answer to GET /metrics."""
        self._tally.note(os.getpid(), families_of(REGISTRY.collect()))
        for pid, body in (await self._crew.ask(Asked(id=0, what="metrics"))).items():
            self._tally.note(pid, _families.decode(body))
        return generate_latest(FamiliesCollector(self._tally.gather((os.getpid(), *self._crew.pids))))

    async def sessions(self, after: int, most: int) -> list[SessionView]:
        """Return the first *most* sessions with numbers behind *after*."""
        views = await first_sessions(self._roster, after, most)
        for body in (await self._crew.ask(Asked(id=0, what="sessions", after=after, most=most))).values():
            views += _views.decode(body)
        return sorted(views, key=lambda view: view.session)[:most]


async def first_sessions(roster: Roster, after: int, most: int) -> list[SessionView]:
    """Return the same of one process alone."""
    views: list[SessionView] = []
    async for _, view in roster.find(SessionFilter(), after=after):
        views.append(view)
        if len(views) == most:
            break
    return views
