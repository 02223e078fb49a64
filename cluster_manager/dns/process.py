"""The embedded name backend: a process of its own that answers, and the manager's end of it.

Questions share neither loop nor interpreter with the decisions, so no crowd of them delays a failover.  The manager
binds the port, writes each zone to the process as one line, and reads a report of it every second; one that ends or is silent
is replaced.  The sockets outlive it: what is asked meanwhile waits in the kernel.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import os
import socket
import sys
from collections.abc import Mapping
from types import TracebackType
from typing import Self

import msgspec
from prometheus_client import Counter

from cluster_manager.dns.answer import prepare
from cluster_manager.dns.binding import bind
from cluster_manager.dns.program import REPORT_EVERY_S, Report
from cluster_manager.dns.records import Zone, desired_records
from cluster_manager.dns.server import LISTENER
from daemonkit.logs import get_logger
from daemonkit.reception import CONNECTIONS, REFUSED
from pgtopology.document import Topology

PROGRAM = "cluster_manager.dns.program"
SILENT_S = 5 * REPORT_EVERY_S
"""After so long without a report its loop stands still, or it cannot run, and it is replaced."""
START_S = 15.0
"""The same before its first report: it reads its modules from a disk that may be busy."""
AGAIN_S = 0.5
"""Between the end of one and the next."""
RESTARTS = Counter("endpointd_dns_restarts", "How often the name server's process ended or was silent, and was replaced.")


class DnsProcess:
    """Answers while its ``async with`` block runs. Raises OSError on entry if the port cannot be had."""

    def __init__(self, *, host: str, port: int, ttl_s: int, log_level: str = "info", log_style: str = "console") -> None:
        self._host = host
        self._port = port
        self._ttl_s = ttl_s
        self._log_options = ("--log-level", log_level, "--log-style", log_style)
        self._newest: tuple[int, int] | None = None
        self._zone: Zone | None = None
        self._changed = asyncio.Event()
        self._sockets: tuple[socket.socket, ...] = ()
        self._tasks = asyncio.TaskGroup()
        self._life: asyncio.Task[None] | None = None
        self._pid: int | None = None
        self._log = get_logger()

    @property
    def port(self) -> int:
        """The port that is listened on, which differs from the one asked for if that was 0."""
        return self._port

    @property
    def pid(self) -> int | None:
        """Of the process that answers; None while there is none."""
        return self._pid

    async def __aenter__(self) -> Self:
        self._sockets = await bind(self._host, self._port)
        self._port = int(self._sockets[0].getsockname()[1])
        await self._tasks.__aenter__()
        self._life = self._tasks.create_task(self._live(), name="name server")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._life is not None
        self._life.cancel()
        try:
            await self._tasks.__aexit__(None, None, None)
        finally:
            for each in self._sockets:
                each.close()

    def begin_with(self, topology: Topology) -> None:
        """Answer from *topology*, which was kept from an earlier life, until `update` is told any document."""
        if self._newest is None:
            self._exchange(topology)

    def update(self, topology: Topology) -> None:
        """Answer from *topology* from now on, unless a newer one was given before."""
        newest = (topology.epoch, topology.revision)
        if (self._newest is None or newest > self._newest) and self._exchange(topology):
            self._newest = newest

    def _exchange(self, topology: Topology) -> bool:
        try:
            zone = desired_records(
                topology, self._ttl_s, name_server=self._own_address(), after=self._zone.serial if self._zone is not None else 0
            )
            prepare(zone)
        except ValueError as error:
            # Names that cannot be served are no reason to stop a failover; the former answers stay.
            self._log.error("the names of this document cannot be served", revision=topology.revision, reason=str(error))
            return False
        self._zone = zone
        self._changed.set()
        return True

    def _own_address(self) -> str | None:
        """Return the address to give as name server, or None if it listens on all of them, or on one given by name."""
        try:
            return None if ipaddress.ip_address(self._host).is_unspecified else self._host
        except ValueError:
            return None

    async def _live(self) -> None:
        """Have one process after another answer."""
        while True:
            try:
                why = await self._one_process()
            except OSError as error:
                why = str(error)
            RESTARTS.inc()
            self._log.error("the name server ended and is started again", reason=why)
            await asyncio.sleep(AGAIN_S)

    async def _one_process(self) -> str:
        """Have one process answer for as long as it does; return why it no longer does."""
        tcp, udp = self._sockets
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-P", "-m", PROGRAM, "--tcp", str(tcp.fileno()), "--udp", str(udp.fileno()),
            "--parent", str(os.getpid()), *self._log_options,
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, pass_fds=(tcp.fileno(), udp.fileno()),
        )  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        self._pid = process.pid
        try:
            async with asyncio.TaskGroup() as tasks:
                telling = tasks.create_task(self._tell(process.stdin), name="names told")
                is_silent = await self._hear(process.stdout)
                telling.cancel()
        finally:
            self._pid = None
            CONNECTIONS.labels(LISTENER, "stranger").set(0)
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
        return "it was silent" if is_silent else f"exit code {process.returncode}"

    async def _tell(self, stdin: asyncio.StreamWriter) -> None:
        """Write the newest zone, and each newer one; what came and went meanwhile is left out."""
        told: Zone | None = None
        with contextlib.suppress(ConnectionError):  # it ended, which is noticed by its silence
            while True:
                self._changed.clear()
                if self._zone is not None and self._zone != told:
                    told = self._zone
                    stdin.write(msgspec.json.encode(told) + b"\n")
                    await stdin.drain()
                await self._changed.wait()

    async def _hear(self, stdout: asyncio.StreamReader) -> bool:
        """Take its reports until there are no more; return whether it is silent, and else it ended."""
        before: Mapping[str, int] = {}
        patience_s = START_S
        while True:
            try:
                async with asyncio.timeout(patience_s):
                    line = await stdout.readline()
            except TimeoutError:
                return True
            if not line:
                return False
            patience_s = SILENT_S
            report = msgspec.json.decode(line, type=Report)
            for reason, count in report.refused.items():
                REFUSED.labels(LISTENER, reason).inc(max(0, count - before.get(reason, 0)))
            before = report.refused
            CONNECTIONS.labels(LISTENER, "stranger").set(report.connections)
