"""Rehearses the loss of a node for an operator: asks the nodes how ready they are, and measures by the records of the past.

The answer is `decision.drill`'s; nothing is ordered and nothing changes.
"""

from __future__ import annotations

import asyncio

from cluster_manager.decision.drill import obstacle, rehearse
from cluster_manager.not_done import Refused
from cluster_manager.record.flight_files import FlightFiles
from cluster_manager.shell.executor import Executor
from cluster_manager.shell.reconciler import Reconciler
from daemonkit.httpclient import HttpError
from pgtopology.codec import MessageError, decode
from pgtopology.drill import Drill, Readiness
from pgtopology.flight import Measured, OutageKind, kind_of, measure
from pgtopology.node import NodeName

ASK_TIMEOUT_S = 2.0
FLIGHTS_MEASURED = 20
"""The newest failovers say more of the next one than old ones do."""


class Drills:
    """Drills, one at a time or several: they share nothing."""

    def __init__(self, reconciler: Reconciler, executor: Executor, files: FlightFiles) -> None:
        self._reconciler = reconciler
        self._executor = executor
        self._files = files

    async def drill(self, lose: str | None) -> Drill:
        """Return what the loss of *lose*, or of the writer, would do. Raises Refused if nothing can be rehearsed."""
        self._refuse(lose)
        names = [spec.name for spec in self._reconciler.specs]
        answers = await asyncio.gather(*(self._ask(name) for name in names), asyncio.to_thread(self._measure))
        measured = answers[-1]
        told = {answer.node: answer for answer in answers[:-1] if isinstance(answer, Readiness)}
        self._refuse(lose)  # the nodes took a moment to answer
        return rehearse(self._reconciler.look(), lose, told, measured if isinstance(measured, Measured) else None)

    async def sessions_of_writer(self) -> Readiness | None:
        """Return what the writer's node says of itself, or None if there is no writer or it does not say."""
        document = self._reconciler.document
        return await self._ask(document.writer) if document is not None and document.writer is not None else None

    def _refuse(self, lose: str | None) -> None:
        why_not = obstacle(self._reconciler.look(), lose)
        if why_not is not None:
            raise Refused(why_not)

    async def _ask(self, name: NodeName) -> Readiness | None:
        try:
            return decode(await self._executor.ask(name, "/candidacy", None, timeout_s=ASK_TIMEOUT_S), Readiness)
        except (HttpError, MessageError):
            return None  # a node that cannot be asked shows as one that does not tell

    def _measure(self) -> Measured | None:
        unplanned = [flight for flight in self._files.load() if kind_of(flight) == OutageKind.FAILOVER]
        return measure(tuple(unplanned[:FLIGHTS_MEASURED]))
