"""A manager as far as a proxy can tell: a real web socket that speaks FeedFrame, and a noded's /status and /v1/roles."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Self

from aiohttp import WSMsgType, web

from pgtopology.codec import decode, encode
from pgtopology.credentials import Credentials, RolesAnswer
from pgtopology.document import Candidate, Step, Topology, Transition, TransitionKind
from pgtopology.epoch import Epoch, Revision
from pgtopology.lsn import Lsn
from pgtopology.node import Address, Member, NodeName, NodeState, Role
from pgtopology.observation import Heartbeat, Seen
from pgtopology.report import FeedFrame, ProxyReport
from pgtopology.timeline import FIRST_TIMELINE, Timeline, TimelineRecord
from testkit import documents

TOKEN = "feed-token"  # noqa: S105 - of a manager that is none


def member(name: str, port: int = 1, *, role: Role = Role.STANDBY, noded_port: int = 1, **changes: object) -> Member:
    """Return a healthy member."""
    fields: dict[str, object] = {
        "state": NodeState.RUNNING if role is Role.PRIMARY else NodeState.STREAMING,
        "reader_eligible": role is Role.STANDBY,
        **changes,
    }
    return documents.member(
        name, address=Address("127.0.0.1", port), noded=Address("127.0.0.1", noded_port), role=role, **fields
    )


def document(
    *members: Member,
    writer: str | None = None,
    candidate: str | None = None,
    epoch: int = 1,
    revision: int = 1,
    kind: TransitionKind = TransitionKind.FAILOVER,
    drain_ms: int | None = None,
) -> Topology:
    """Return a document in which *writer* is the writer, or in which there is none."""
    stands = writer or candidate
    return documents.document(
        cluster="test",
        revision=Revision(revision),
        epoch=Epoch(epoch),
        writer=NodeName(writer) if writer else None,
        candidate=Candidate(NodeName(stands), Timeline(epoch + 1)) if stands else None,
        timelines=(_record(epoch, stands),) if stands else (),
        members=members,
        transition=None
        if writer
        else Transition(
            kind=kind,
            drain_ms=drain_ms,
            step=Step.PROMOTING if candidate else Step.RECRUITING,
            cause="test",
            first_epoch=Epoch(epoch),
            started_at="now",
        ),
    )


def _record(epoch: int, node: str) -> TimelineRecord:
    return TimelineRecord(
        timeline=Timeline(epoch + 1), epoch=Epoch(epoch), node=node, parent=FIRST_TIMELINE, fork_lsn=Lsn(0x3000000)
    )


class FeedServer:
    """Serves one document."""

    def __init__(self, topology: Topology | None = None) -> None:
        self.topology = topology
        self.lease_ms = 600
        self.reports: list[ProxyReport] = []
        self.heartbeat_age_ms: int | None = None
        """Of the writer, when asked as its noded; None: no answer."""
        self.status_requests = 0
        self.roles: Credentials | None = None
        """What every noded tells of roles; None: no answer."""
        self.port = 0
        self._news = asyncio.Event()
        self._runner: web.AppRunner | None = None

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_get("/v1/feed", self._feed)
        app.router.add_get("/status", self._status)
        app.router.add_get("/v1/roles", self._roles)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        await self.listen()
        return self

    async def __aexit__(self, *_error: object) -> None:
        assert self._runner is not None
        await self._runner.cleanup()

    async def listen(self) -> None:
        """Listen, on the same port as before if there was one."""
        assert self._runner is not None
        await web.TCPSite(self._runner, "127.0.0.1", self.port).start()
        self.port = int(self._runner.addresses[0][1])

    def publish(self, topology: Topology) -> None:
        """Send *topology* at once."""
        self.topology = topology
        self._news.set()
        self._news = asyncio.Event()

    async def wait_for_report(self, **fields: object) -> ProxyReport:
        """Return the first report from now on in which *fields* are so."""
        seen = len(self.reports)
        async with asyncio.timeout(10):
            while True:
                for report in self.reports[seen:]:
                    if all(getattr(report, name) == value for name, value in fields.items()):
                        return report
                seen = len(self.reports)
                await asyncio.sleep(0.01)

    async def _feed(self, request: web.Request) -> web.WebSocketResponse:
        if request.headers.get("Authorization") != f"Bearer {TOKEN}":
            raise web.HTTPUnauthorized
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        reader = asyncio.create_task(self._read(socket))
        sent: Topology | None = None
        try:
            while not socket.closed:
                news, topology = self._news, self.topology
                if topology is not None and self.lease_ms >= 0:
                    frame = FeedFrame(
                        lease_ms=self.lease_ms,
                        echo_ms=self.reports[-1].clock_ms if self.reports else None,
                        epoch=topology.epoch,
                        revision=topology.revision,
                        document=topology if topology != sent else None,
                    )
                    sent = topology
                    await socket.send_str(encode(frame).decode())
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(news.wait(), 0.15)
        except ConnectionError:
            pass
        finally:
            reader.cancel()
        return socket

    async def _read(self, socket: web.WebSocketResponse) -> None:
        async for message in socket:
            if message.type is WSMsgType.TEXT:
                self.reports.append(decode(message.data, ProxyReport))
                if len(self.reports) == 1 and self.topology is not None:
                    self.publish(self.topology)

    async def _status(self, request: web.Request) -> web.Response:
        if request.headers.get("Authorization") != f"Bearer {TOKEN}":
            raise web.HTTPUnauthorized
        self.status_requests += 1
        if self.heartbeat_age_ms is None or self.topology is None or self.topology.writer is None:
            raise web.HTTPServiceUnavailable
        seen = documents.observation(
            self.topology.writer,
            role=Role.PRIMARY,
            promised=self.topology.epoch,
            seen=Seen(epoch=self.topology.epoch),
            heartbeat=Heartbeat(epoch=self.topology.epoch, acknowledged_age_ms=self.heartbeat_age_ms),
        )
        return web.Response(body=encode(seen), content_type="application/json")

    async def _roles(self, request: web.Request) -> web.Response:
        if request.headers.get("Authorization") != f"Bearer {TOKEN}":
            raise web.HTTPUnauthorized
        roles = self.roles
        if roles is None:
            raise web.HTTPServiceUnavailable
        is_news = roles.version != request.query.get("since")
        told = RolesAnswer(version=roles.version, lsn=Lsn(1), age_ms=0, credentials=roles if is_news else None)
        return web.Response(body=encode(told), content_type="application/json")


@contextlib.asynccontextmanager
async def feed_server(topology: Topology | None = None) -> AsyncIterator[FeedServer]:
    """Give a feed server."""
    async with FeedServer(topology) as server:
        yield server
