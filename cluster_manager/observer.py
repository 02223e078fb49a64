"""What the nodes say, with the time it arrived: one task per node that follows its noded's stream of observations.

Knows arrival times on the manager's monotonic clock and what changed since; judges nothing.  When the manager's own loop was
late, messages lay unread in the meantime, so that time is taken off every node's age.  While the published writer's noded is
not heard, its PostgreSQL port is tried directly: a noded that is away says nothing about its PostgreSQL.
"""

from __future__ import annotations

import asyncio
import time

from cluster_manager.decision.nodeview import NEVER_MS, NodeSpec, NodeView
from cluster_manager.watched import Watched
from daemonkit.httpclient import HttpClient, HttpError
from daemonkit.logs import get_logger
from daemonkit.looplag import LoopLag
from pgtopology.codec import MessageError, decode
from pgtopology.node import NodeName
from pgtopology.observation import Observation, Port

IDLE_TIMEOUT_S = 2.0
"""A stream this quiet, for many reports, is broken."""
RECONNECT_S = 0.1
PROBE_AFTER_MS = 250.0
PROBE_EVERY_S = 0.1
PROBE_TIMEOUT_S = 0.25
LAG_MS = 100.0
"""A loop later than this has been deaf, not the nodes silent."""
LOOK_BACK_S = 1.0
"""Decisions are made many times a second: a lag that ended longer ago was discounted by an earlier one."""


def now_ms() -> float:
    """Return the manager's one clock, in milliseconds."""
    return time.monotonic() * 1000


class Observer:
    """The newest word of every node."""

    def __init__(self, specs: tuple[NodeSpec, ...], token: str) -> None:
        self._watched = {spec.name: Watched(spec) for spec in specs}
        self._token = token
        self._lag = LoopLag()
        self._discounted_ms = -NEVER_MS
        self._tasks: asyncio.TaskGroup | None = None
        self._followers: dict[NodeName, asyncio.Task[None]] = {}
        self._log = get_logger()
        self.writer: NodeName | None = None
        """Whose port is tried while its noded is silent; the reconciler says."""
        self.every_word_counts = True
        """Whether one that says nothing new is a change too; the reconciler says."""
        self.changed = asyncio.Event()
        """Set when there is something to decide upon; the reconciler clears it."""

    async def run(self) -> None:
        """Follow all nodes until cancelled."""
        async with asyncio.TaskGroup() as self._tasks:
            self._tasks.create_task(self._lag.watch(), name="loop lag")
            self._tasks.create_task(self._try_port(), name="port probe")
            for watched in self._watched.values():
                self._begin(watched)

    def set_specs(self, specs: tuple[NodeSpec, ...]) -> None:
        """Go on with another set of nodes; what is known of those that stay is kept."""
        known = self._watched
        self._watched = {
            spec.name: known[spec.name] if spec.name in known and known[spec.name].spec == spec else Watched(spec)
            for spec in specs
        }
        for name, watched in known.items():
            if self._watched.get(name) is not watched and (task := self._followers.pop(name, None)) is not None:
                task.cancel()
        for watched in self._watched.values():
            if watched.spec.name not in self._followers:
                self._begin(watched)
        self.changed.set()

    def _begin(self, watched: Watched) -> None:
        if self._tasks is not None:
            name = watched.spec.name
            self._followers[name] = self._tasks.create_task(self._follow(watched), name=f"observe {name}")

    def views(self, now: float) -> tuple[NodeView, ...]:
        """Return every node as known at *now*."""
        self._discount(now)
        return tuple(watched.view(now) for watched in self._watched.values())

    def wal_advanced_at_ms(self, name: NodeName) -> float:
        """Return when the WAL of *name* was last seen to grow."""
        watched = self._watched.get(name)
        return watched.wal_advanced_ms if watched is not None else -NEVER_MS

    def _discount(self, now: float) -> None:
        """Take off what this process itself was too late to hear."""
        lag = self._lag.worst_ms(LOOK_BACK_S, after=self._discounted_ms / 1000)
        if lag <= LAG_MS:
            return
        self._discounted_ms = now
        for watched in self._watched.values():
            watched.discount(lag, now)
        self._log.warning("the manager itself was late and discounts what it missed", lag_ms=round(lag))

    async def _follow(self, watched: Watched) -> None:
        name, noded = watched.spec.name, watched.spec.noded
        heard = True
        async with HttpClient(f"http://{noded}", self._token) as client:
            while True:
                try:
                    async for line in client.lines("/events", idle_timeout_s=IDLE_TIMEOUT_S):
                        self._take(watched, decode(line, Observation))
                        if not heard:
                            heard = True
                            self._log.info("node heard again", node=name)
                except (HttpError, MessageError) as error:
                    if heard:
                        self._log.info("node not heard", node=name, error=str(error))
                    heard = False
                await asyncio.sleep(RECONNECT_S)

    def _take(self, watched: Watched, observation: Observation) -> None:
        if observation.node != watched.spec.name:
            raise MessageError(f'"{observation.node}" answers where "{watched.spec.name}" should')
        if watched.take(observation, now_ms()) or self.every_word_counts:
            self.changed.set()

    async def _try_port(self) -> None:
        """Try the silent writer's PostgreSQL port."""
        while True:
            await asyncio.sleep(PROBE_EVERY_S)
            watched = self._watched.get(self.writer) if self.writer is not None else None
            if watched is None or now_ms() - watched.arrived_ms < PROBE_AFTER_MS:
                continue
            met = await _knock(watched.spec.address.host, watched.spec.address.port)
            if now_ms() - watched.arrived_ms >= PROBE_AFTER_MS:
                watched.port = met
                self.changed.set()


async def _knock(host: str, port: int) -> Port:
    """Ask PostgreSQL for TLS and see whether anybody answers: the cheapest question that needs a living postmaster."""
    try:
        async with asyncio.timeout(PROBE_TIMEOUT_S):
            reader, writer = await asyncio.open_connection(host, port)
            try:
                writer.write(b"\x00\x00\x00\x08\x04\xd2\x16\x2f")
                return Port.ANSWERS if await reader.read(1) else Port.SILENT
            finally:
                writer.close()
    except ConnectionRefusedError:
        return Port.REFUSED
    except (TimeoutError, OSError):
        return Port.SILENT
