"""The document feed: listens to every manager, reports to each, and keeps the last document on disk.

All managers are listened to at once, so that a new leader is heard the moment it speaks; only one that holds the lease
vouches for the writer.  A document is taken only if it may replace the present one: an old manager cannot take us back.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import aiohttp

from daemonkit.httpclient import HttpClient, HttpError
from daemonkit.kept import Kept
from daemonkit.logs import get_logger
from daemonkit.version import VERSION
from endpointd.routing.freshness import lease_until
from endpointd.routing.switchboard import Switchboard
from pgtopology.cancels import CANCELLED_PATH, CANCELS_PATH, CARRY_S, CancelAnswer, CancelDone, CancelQuestion, CancelWish
from pgtopology.codec import MessageError, decode, encode
from pgtopology.document import Topology
from pgtopology.report import FeedFrame, ProxyEndpoint, ProxyReport
from pgtopology.sessions import ANSWERS_PATH, SessionQuestion, SessionsPage
from pgtopology.succession import may_replace

CONNECT_TIMEOUT_S = 2.0
SILENCE_S = 2.0
"""A manager that has been silent for this long, many frames, is called anew."""
RECONNECT_S = 0.2
REPORT_S = 0.5
SEND_TIMEOUT_S = 2.0
ANSWERING_MAX = 16
"""Questions at once; a manager has fewer open."""
CANCELLING_MAX = 64
"""Likewise."""
PAGE_TIMEOUT_S = 6.0
"""For one page of an answer: whoever asked may read slowly, and the manager waits for that."""


def document_cache(path: Path) -> Kept[Topology]:
    """Return the copy of the last document in *path*, so that a restarted proxy routes while all managers are dead."""
    return Kept(path, "document", encode=encode, decode=lambda data: decode(data, Topology))


async def _nobodys(_packet: bytes) -> bool:
    return False


class FeedLost(Exception):  # noqa: N818 - the name says what happened
    """The connection to a manager is of no use any longer; the text says why."""


class Feed:
    """The connection to one manager."""

    def __init__(
        self,
        url: str,
        token: Callable[[], str],
        name: str,
        board: Switchboard,
        cache: Kept[Topology],
        *,
        engine: str,
        endpoints: tuple[ProxyEndpoint, ...] = (),
        count: Callable[[], int],
        count_relaxed: Callable[[], int],
        answer: Callable[[SessionQuestion], AsyncIterator[SessionsPage]],
        cancel: Callable[[bytes], Awaitable[bool]] = _nobodys,
    ) -> None:
        """*token* is asked at each connection.

        *count* returns the number of sessions, *count_relaxed* that of those whose commits may not be covered; *answer* does
        what a manager asks about them; *cancel* carries a cancel request out that came to another proxy, if one of our sessions
        has its key, and returns whether one has.
        """
        self.url = url
        self.heard_at = float("-inf")
        """When the manager last said something, on the loop's clock."""
        self.name = name
        """What the managers know us by."""
        self.is_draining = False
        """Whether a successor serves, and we have only the sessions that are left."""
        self._token = token
        self._board = board
        self._cache = cache
        self._engine = engine
        self._endpoints = endpoints
        self._count = count
        self._count_relaxed = count_relaxed
        self._answer = answer
        self._cancel = cancel
        self._answering = 0
        self._cancelling = 0
        self._client: HttpClient | None = None
        """While the manager answers."""
        self._proxy = name
        self._loop = asyncio.get_running_loop()
        self._cause = asyncio.Event()
        self._log = get_logger(manager=url)
        self._reason: str | None = None
        self._refused: tuple[int, int] | None = None

    async def run(self) -> None:
        """Listen for ever."""
        while True:
            try:
                async with HttpClient(self.url, self._token()) as client:
                    await self._listen(client)
            except (HttpError, FeedLost) as error:
                if self._reason != str(error):
                    self._reason = str(error)
                    self._log.warning("no feed", reason=self._reason)
            await asyncio.sleep(RECONNECT_S)

    async def _listen(self, client: HttpClient) -> None:
        """Take frames and send reports until that is not possible any more. Raises HttpError or FeedLost."""
        lost: list[str] = []
        async with client.websocket(f"/v1/feed?proxy={self.name}", timeout_s=CONNECT_TIMEOUT_S) as socket:
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._report(socket))
                    group.create_task(self._watch_board())
                    self._client = client
                    await self._receive(
                        socket,
                        lambda question: group.create_task(self._reply(client, question)),
                        lambda question: group.create_task(self._carry(client, question)),
                    )
            except* TimeoutError:
                lost.append("the manager is silent")
            except* (OSError, aiohttp.ClientError, MessageError, FeedLost) as errors:
                lost += [str(error) or type(error).__name__ for error in errors.exceptions]
            finally:
                self._client = None
        raise FeedLost(", ".join(lost))

    async def forward_cancel(self, packet: bytes, owner: bytes | None) -> bool | None:
        """Have a cancel request carried out by the proxy with the id *owner*, or by whichever other one has its session.

        Return whether there was one; None if this manager does not answer.
        """
        if self._client is None:
            return None
        wish = CancelWish(proxy=self._proxy, packet=packet, owner=owner)
        try:
            return decode(await self._client.post(CANCELS_PATH, encode(wish), timeout_s=CARRY_S), CancelDone).found
        except (HttpError, MessageError) as error:
            self._log.debug("a cancel request was not forwarded", reason=str(error))
            return None

    async def _receive(
        self,
        socket: aiohttp.ClientWebSocketResponse,
        asked: Callable[[SessionQuestion], object],
        asked_to_cancel: Callable[[CancelQuestion], object],
    ) -> None:
        while True:
            async with asyncio.timeout(SILENCE_S):
                message = await socket.receive()
            if message.type is not aiohttp.WSMsgType.TEXT:
                raise FeedLost("the manager closed the connection")
            frame = decode(message.data, FeedFrame)
            self._take(frame)
            for question in frame.questions:
                self._hear(bytes(question), asked)
            for cancel in frame.cancels:
                if self._cancelling < CANCELLING_MAX:
                    asked_to_cancel(cancel)
            self.heard_at = self._loop.time()
            self._cause.set()

    def _take(self, frame: FeedFrame) -> None:
        """Do what *frame* says."""
        if self._reason != "":
            self._reason = ""
            self._log.info("feed connected", epoch=frame.epoch, revision=frame.revision, leads=frame.lease_ms > 0)
        if frame.document is not None:
            self._take_document(frame.document)
        self._board.vouch(lease_until=lease_until(frame, self._board.topology))

    def _take_document(self, document: Topology) -> None:
        held = self._board.topology
        if held == document:
            return
        why_not = may_replace(held, document) if held is not None else None
        if why_not is None:
            self._board.set_topology(document)
            self._cache.keep(document)
        elif self._refused != (document.epoch, document.revision):
            self._refused = (document.epoch, document.revision)
            self._log.warning("document refused", reason=why_not)

    def _hear(self, data: bytes, asked: Callable[[SessionQuestion], object]) -> None:
        """Have the question in *data* answered, if it can be understood and few others are."""
        try:
            question = decode(data, SessionQuestion)
        except MessageError as error:
            self._log.warning("a manager's question cannot be read", error=str(error))
            return
        if self._answering < ANSWERING_MAX:
            asked(question)

    async def _reply(self, client: HttpClient, question: SessionQuestion) -> None:
        """Do what *question* says and post what there is to tell, for as long as the manager takes it."""
        self._answering += 1
        try:
            async for page in self._answer(question):
                await client.post(ANSWERS_PATH, encode(page), timeout_s=PAGE_TIMEOUT_S)
        except HttpError as error:
            self._log.debug("a question was not answered to its end", reason=str(error))
        finally:
            self._answering -= 1

    async def _carry(self, client: HttpClient, question: CancelQuestion) -> None:
        """Carry out a cancel request that came to another proxy, if it is for us, and say whether it was."""
        self._cancelling += 1
        try:
            answer = CancelAnswer(id=question.id, found=await self._cancel(question.packet))
            await client.post(CANCELLED_PATH, encode(answer), timeout_s=SEND_TIMEOUT_S)
        except HttpError as error:
            self._log.debug("nobody waits any more for a cancel request", reason=str(error))
        finally:
            self._cancelling -= 1

    async def _report(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        """Say how things stand, in answer to every frame and at every change."""
        board = self._board
        while True:
            self._cause.clear()
            report = ProxyReport(
                name=self.name,
                proxy=self._proxy,
                is_draining=self.is_draining,
                pid=os.getpid(),
                version=VERSION,
                epoch=board.settled_epoch,
                revision=board.table.revision,
                clock_ms=int(self._loop.time() * 1000),
                sessions=self._count(),
                relaxed_sessions=self._count_relaxed(),
                engine=self._engine,
                backends=board.backends(),
                endpoints=self._endpoints if not self.is_draining else (),
            )
            async with asyncio.timeout(SEND_TIMEOUT_S):
                await socket.send_str(encode(report).decode())
            await self._cause.wait()

    async def _watch_board(self) -> None:
        """Have a report sent whenever the board changes, and now and then when no manager asks for one."""
        while True:
            await self._board.wait_for_change(REPORT_S)
            self._cause.set()
