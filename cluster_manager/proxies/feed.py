"""The connection to the proxies: the document down at once and a sign of life every 150 ms, reports up.

Knows frames and reports, not how a document came to be.  A frame lends the proxy the writer endpoint for 600 ms (S14), so it
is sent only while this manager holds the lease on the store.  A proxy that does not take its frames is cut off; it holds its
writers then, which is what it must do.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

import msgspec
from aiohttp import WSMsgType, web

from daemonkit.httperrors import ApiError
from daemonkit.logs import get_logger
from pgtopology.cancels import CancelQuestion, proxy_id
from pgtopology.codec import MessageError, decode, encode
from pgtopology.document import Topology
from pgtopology.epoch import NO_EPOCH, NO_REVISION, Epoch, Revision
from pgtopology.report import FeedFrame, ProxyReport
from pgtopology.status import ProxyStatus
from pgtopology.timing import FRAME_EVERY_MS, FRAME_LEASE_MS

FRAME_EVERY_S = FRAME_EVERY_MS / 1000
SEND_TIMEOUT_S = 2.0
PROXIES_MAX = 256
NAME_CHARACTERS_MAX = 64


@dataclass(eq=False, slots=True)
class _Connected:
    """One proxy's connection."""

    name: str
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    report: ProxyReport | None = None
    questions: list[msgspec.Raw] = field(default_factory=list)
    """To be asked by the next frame."""
    cancels: list[CancelQuestion] = field(default_factory=list)
    """Likewise."""
    lent_at_s: float = float("-inf")
    """When it was last sent a frame, on the manager's clock."""


class Feed:
    """All proxies that are connected."""

    def __init__(self, lease_ms: Callable[[], int], reported: Callable[[], None] = lambda: None) -> None:
        """*reported* is called at every report that arrives."""
        self._lease_ms = lease_ms
        self._reported = reported
        self._document: Topology | None = None
        self._connected: list[_Connected] = []
        self._departed: list[_Connected] = []
        """Those that left while a frame may still vouch for them."""
        self._clock = time.monotonic
        self._log = get_logger()

    def publish(self, document: Topology) -> None:
        """Send *document* to every proxy now."""
        self._document = document
        for connected in self._connected:
            connected.changed.set()

    def proxies(self) -> tuple[ProxyStatus, ...]:
        """Return what the proxies last reported, by name."""
        by_name: dict[str, list[ProxyReport]] = {}
        for connected in self._connected:
            if connected.report is not None:
                by_name.setdefault(connected.report.name, []).append(connected.report)
        return tuple(_status_of(reports) for _, reports in sorted(by_name.items()))

    def ask(self, question: bytes, names: Collection[str] | None = None) -> list[str]:
        """Ask *question* of every proxy, or of those called *names*, at once; return the names of those that are asked."""
        asked = [each for each in self._connected if names is None or each.name in names]
        for connected in asked:
            connected.questions.append(msgspec.Raw(question))
            connected.changed.set()
        return sorted(connected.name for connected in asked)

    def ask_to_cancel(self, question: CancelQuestion, *, asker: str, owner: bytes | None) -> int:
        """Give *question* to the processes of the proxy with the id *owner*, or of all but *asker*; return to how many.

        Those of an earlier version do not say whose processes they are, and would not answer.
        """
        asked = 0
        for each in self._connected:
            proxy = each.report.proxy if each.report is not None else ""
            if proxy and (proxy != asker if owner is None else proxy_id(proxy) == owner):
                each.cancels.append(question)
                each.changed.set()
                asked += 1
        return asked

    def seen(self) -> tuple[Epoch, Revision]:
        """Return the greatest (epoch, revision) that a connected proxy reports."""
        reports = [connected.report for connected in self._connected if connected.report is not None]
        return max(((report.epoch, report.revision) for report in reports), default=(NO_EPOCH, NO_REVISION))

    def are_settled(self, epoch: Epoch) -> bool:
        """Return whether no proxy can have a session of a writer earlier than *epoch*'s.

        Every connected one has reported *epoch*, and what the last frame lent to those that left has run out.
        """
        lent_until_s = self._clock() - FRAME_LEASE_MS / 1000
        self._departed = [proxy for proxy in self._departed if proxy.lent_at_s > lent_until_s]
        return all(proxy.report is not None and proxy.report.epoch >= epoch for proxy in (*self._connected, *self._departed))

    async def handle(self, request: web.Request) -> web.WebSocketResponse:
        """Serve GET /v1/feed?proxy=NAME."""
        name = request.query.get("proxy", "")
        if not 0 < len(name) <= NAME_CHARACTERS_MAX:
            raise ApiError(400, "bad_request", f"the query needs proxy=NAME, 1 to {NAME_CHARACTERS_MAX} characters")
        if len(self._connected) >= PROXIES_MAX:
            raise ApiError(503, "too_many_proxies", f"{PROXIES_MAX} proxies are connected already")
        socket = web.WebSocketResponse(autoping=True, max_msg_size=1 << 16, compress=False)
        await socket.prepare(request)
        connected = _Connected(name)
        self._connected.append(connected)
        self._log.info("proxy connected", proxy=name)
        try:
            async with asyncio.TaskGroup() as tasks:
                sender = tasks.create_task(self._send(socket, connected), name=f"feed to {name}")
                await self._receive(socket, connected)
                sender.cancel()
        except* (ConnectionError, TimeoutError):
            pass
        finally:
            self._connected.remove(connected)
            self._departed = [*self._departed[-PROXIES_MAX:], connected]
            self._log.info("proxy disconnected", proxy=name)
        return socket

    async def _send(self, socket: web.WebSocketResponse, connected: _Connected) -> None:
        sent: Topology | None = None
        while True:
            connected.changed.clear()
            document = self._document
            questions, connected.questions = tuple(connected.questions), []
            cancels, connected.cancels = tuple(connected.cancels), []
            frame = FeedFrame(
                lease_ms=min(FRAME_LEASE_MS, self._lease_ms()),
                echo_ms=connected.report.clock_ms if connected.report is not None else None,
                epoch=document.epoch if document is not None else NO_EPOCH,
                revision=document.revision if document is not None else NO_REVISION,
                document=document if document is not sent else None,
                questions=questions,
                cancels=cancels,
            )
            async with asyncio.timeout(SEND_TIMEOUT_S):
                await socket.send_str(encode(frame).decode())
            connected.lent_at_s = self._clock()
            sent = document
            try:
                async with asyncio.timeout(FRAME_EVERY_S):
                    await connected.changed.wait()
            except TimeoutError:
                continue

    async def _receive(self, socket: web.WebSocketResponse, connected: _Connected) -> None:
        async for message in socket:
            if message.type is not WSMsgType.TEXT:
                break
            try:
                before, connected.report = connected.report, decode(message.data, ProxyReport)
                connected.name = connected.report.name[:NAME_CHARACTERS_MAX]  # one that drains has another from then on
                if before is None:
                    connected.changed.set()  # only now can a frame vouch for anything
                if before is None or before.epoch != connected.report.epoch:
                    self._reported()
            except MessageError as error:
                self._log.warning("a proxy's report cannot be read", proxy=connected.name, error=str(error))
                break
        # A sender that waits for a reader who is gone would keep the connection open.
        await socket.close()


def _status_of(reports: Sequence[ProxyReport]) -> ProxyStatus:
    """Return how a proxy is all of whose processes have reported."""
    first = reports[0]
    return ProxyStatus(
        name=first.name,
        epoch=min(report.epoch for report in reports),
        sessions=sum(report.sessions for report in reports),
        engine=first.engine,
        relaxed_sessions=sum(report.relaxed_sessions for report in reports),
        draining=first.is_draining,
        endpoints=first.endpoints,
        pids=tuple(sorted(report.pid for report in reports if report.pid)),
    )
