"""Listens to the nodes: one task per node that follows its noded's stream of observations, and one that tries a silent port.

What was heard goes to the manager's loop as events; nothing is kept here.  While the published writer's noded is not heard, its
PostgreSQL port is tried directly: a noded that is away says nothing about its PostgreSQL.  How late this process itself was to
hear anything is measured here too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from cluster_manager.decision.nodeview import NEVER_MS, NodeSpec
from cluster_manager.loop.events import Event, Observed, PortTried
from daemonkit.httpclient import HttpClient, HttpError
from daemonkit.logs import get_logger
from daemonkit.looplag import LoopLag
from pgtopology.codec import MessageError, decode
from pgtopology.node import NodeName
from pgtopology.observation import Observation, Port

IDLE_TIMEOUT_S = 2.0
"""A stream this quiet, for many reports, is broken."""
RECONNECT_S = 0.1
PROBE_EVERY_S = 0.1
PROBE_TIMEOUT_S = 0.25
LAG_MS = 100.0
"""A loop later than this did not listen; the nodes were not silent."""
LOOK_BACK_S = 1.0
"""Decisions are made many times a second: a lag that ended longer ago was discounted by an earlier one."""


class Observer:
    """The ears of the manager; *tell* is told what they hear, *silent_writer* says whose port is to be tried."""

    def __init__(
        self,
        specs: Sequence[NodeSpec],
        token: str,
        tell: Callable[[Event], object],
        silent_writer: Callable[[], NodeName | None],
    ) -> None:
        self._specs = {spec.name: spec for spec in specs}
        self._token = token
        self._tell = tell
        self._silent_writer = silent_writer
        self._lag = LoopLag()
        self._discounted_ms = -NEVER_MS
        self._tasks: asyncio.TaskGroup | None = None
        self._followers: dict[NodeName, asyncio.Task[None]] = {}
        self._log = get_logger()

    async def run(self) -> None:
        """Follow all nodes until cancelled."""
        async with asyncio.TaskGroup() as self._tasks:
            self._tasks.create_task(self._lag.watch(), name="loop lag")
            self._tasks.create_task(self._try_port(), name="port probe")
            for spec in self._specs.values():
                self._begin(spec)

    def set_specs(self, specs: Sequence[NodeSpec]) -> None:
        """Go on with another set of nodes; those that stay as they are are heard without a break."""
        known, self._specs = self._specs, {spec.name: spec for spec in specs}
        for name, spec in known.items():
            if self._specs.get(name) != spec and (task := self._followers.pop(name, None)) is not None:
                task.cancel()
        for spec in specs:
            if spec.name not in self._followers:
                self._begin(spec)

    def _begin(self, spec: NodeSpec) -> None:
        if self._tasks is not None:
            self._followers[spec.name] = self._tasks.create_task(self._follow(spec), name=f"observe {spec.name}")

    def missed_ms(self, now: float) -> float:
        """Return for how long this process heard nothing because it was itself late, each time once; mostly 0."""
        lag_ms = self._lag.worst_ms(LOOK_BACK_S, after=self._discounted_ms / 1000)
        if lag_ms <= LAG_MS:
            return 0.0
        self._discounted_ms = now
        self._log.warning("the manager itself was late and discounts what it missed", lag_ms=round(lag_ms))
        return lag_ms

    async def _follow(self, spec: NodeSpec) -> None:
        name, noded = spec.name, spec.noded
        heard = True
        async with HttpClient(f"http://{noded}", self._token) as client:
            while True:
                try:
                    async for line in client.lines("/events", idle_timeout_s=IDLE_TIMEOUT_S):
                        self._take(spec, decode(line, Observation))
                        if not heard:
                            heard = True
                            self._log.info("node heard again", node=name)
                except (HttpError, MessageError) as error:
                    if heard:
                        self._log.info("node not heard", node=name, error=str(error))
                    heard = False
                await asyncio.sleep(RECONNECT_S)

    def _take(self, spec: NodeSpec, observation: Observation) -> None:
        if observation.node != spec.name:
            raise MessageError(f'"{observation.node}" answers where "{spec.name}" should')
        self._tell(Observed(observation))

    async def _try_port(self) -> None:
        """Try the silent writer's PostgreSQL port."""
        while True:
            await asyncio.sleep(PROBE_EVERY_S)
            writer = self._silent_writer()
            spec = self._specs.get(writer) if writer is not None else None
            if spec is not None:
                self._tell(PortTried(spec.name, await _knock(spec.address.host, spec.address.port)))


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
