"""Learns the cluster's roles from its nodeds, not from the manager: logins work while all managers are dead (decision 0031).

The writer's noded is asked, with a question that it answers when something has changed; while it is silent, or there is no
writer, all others are asked: one of them may be behind.  What one of them says is taken if nothing is known, or if its
PostgreSQL has replayed as much as was known before: a standby that is late takes nobody's new password away.  A document with
another writer has that one asked at once.  Before a login of somebody unfamiliar, and after a wrong password, it is looked once
more.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import quote

from daemonkit.httpclient import HttpClient, HttpError
from daemonkit.logs import get_logger
from endpointd.auth.roles import Roles
from endpointd.routing.switchboard import Switchboard
from pgtopology.codec import MessageError, decode
from pgtopology.credentials import RolesAnswer
from pgtopology.document import Topology
from pgtopology.lsn import Lsn
from pgtopology.node import NodeName

WAIT_S = 1
"""How long a question waits for a change. It is asked again so often, so that a dead noded is noticed."""
ANSWER_S = 1.5
"""Beyond the wait: a look of the noded, and up to 14 MB on their way."""
LOOK_ANSWER_S = 3.0
"""Of a question that a login waits for: a busy noded is at another look first, and rests for up to a second behind it."""
QUIET_ANSWER_S = 0.3
"""The same of a writer's noded that has not answered the last time: the others are not kept waiting for it."""
SOONEST_S = 0.05
"""Between two questions to the writer, also if it has news each time."""
AGAIN_S = 0.25
"""After a round in which nobody had anything."""
REFRESH_EVERY_S = 0.05
"""Between two looks that logins ask for: whoever guesses names or passwords makes no more of them."""
DOCUMENT_S = 60.0


@dataclass(frozen=True, slots=True)
class Source:
    """A noded that may be asked."""

    node: NodeName
    url: str
    is_writer: bool


class RoleFeed:
    """Keeps *roles* as the cluster has them."""

    def __init__(self, board: Switchboard, token: Callable[[], str], roles: Roles) -> None:
        """*token* is asked at each connection."""
        self.roles = roles
        self.heard_at = float("-inf")
        """When a noded last said, or confirmed, what the roles are, on the loop's clock."""
        self.on_change: Callable[[], None] = lambda: None
        """Called when the roles are others than before."""
        self._heard = asyncio.Event()
        """Wakes whoever waits for that; never set for longer."""
        self._board = board
        self._token = token
        self._loop = asyncio.get_running_loop()
        self._lsn: Lsn | None = None
        """Up to where what is known is true."""
        self._writer_lsn: Lsn | None = None
        """The same as the present writer has told it: of two of its answers that overtake one another the later one counts."""
        self._wanted = asyncio.Event()
        self._next: asyncio.Future[None] = self._loop.create_future()
        """Done when the look is over that `refresh` begins next."""
        self._known = asyncio.Event()
        self._log = get_logger()
        self._said = ""

    async def run(self) -> None:
        """Learn for ever."""
        while True:
            topology = self._board.topology
            asked = sources(topology)
            if topology is None or not asked:
                await self._board.wait_for_change(DOCUMENT_S)
                continue
            self._writer_lsn = None
            async with contextlib.AsyncExitStack() as stack:
                clients = {one: await stack.enter_async_context(HttpClient(one.url, self._token())) for one in asked}
                async with asyncio.TaskGroup() as group:
                    tasks = [group.create_task(self._follow(clients)), group.create_task(self._look_when_wanted(clients))]
                    while self._stands(topology, asked):
                        await self._board.wait_for_change(DOCUMENT_S)
                    for task in tasks:
                        task.cancel()

    def _stands(self, topology: Topology, asked: tuple[Source, ...]) -> bool:
        """Return whether the present document names the same nodeds, and the same attempt to have a writer."""
        present = self._board.topology
        return present is not None and present.epoch == topology.epoch and sources(present) == asked

    async def wait_until_known(self, deadline: float) -> bool:
        """Wait until a noded has told the roles, or the loop's clock shows *deadline*. Return whether one has."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(deadline):
                await self._known.wait()
        return self.roles.is_known

    async def wait_until_heard(self, deadline: float, *, within_s: float) -> bool:
        """Wait until a noded has said what the roles are no longer than *within_s* ago, or the loop's clock shows *deadline*.

        Returns whether one has.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(deadline):
                while self._loop.time() - self.heard_at > within_s:
                    await self._heard.wait()
                return True
        return False

    def look(self) -> None:
        """Have a look made soon, without waiting for it."""
        self._wanted.set()

    async def refresh(self, deadline: float, *, since: str | None) -> bool:
        """Look whether the roles are others than those of version *since*.

        Returns whether they are: at once if that is known, else after a look that began after the call, or when the loop's
        clock shows *deadline*. Looks are made no more often than each REFRESH_EVERY_S, one for all who wait.
        """
        if self.roles.version == since:
            self.look()
            look = self._next
            await asyncio.wait((look,), timeout=max(0.0, deadline - self._loop.time()))
        return self.roles.version != since

    async def _follow(self, clients: dict[Source, HttpClient]) -> None:
        """Ask the writer, and while it is silent the others, for ever."""
        writer = next((one for one in clients if one.is_writer), None)
        is_quiet = False
        while True:
            if writer is not None:
                wait_s = WAIT_S if self.roles.is_known and not is_quiet else 0
                answer_s = QUIET_ANSWER_S if is_quiet else ANSWER_S
                is_quiet = not await self._ask(writer, clients[writer], wait_s=wait_s, answer_s=answer_s)
            if writer is not None and not is_quiet:
                await asyncio.sleep(SOONEST_S)
                continue
            await self._ask_others(clients)
            await asyncio.sleep(AGAIN_S)

    async def _ask_others(self, clients: dict[Source, HttpClient]) -> None:
        """Ask all but the writer: all of them, since one may have stood still just where what is known was true; but if nothing
        is known one after the other, since a whole answer is large and one is enough."""
        others = [one for one in clients if not one.is_writer]
        while others and not self.roles.is_known:
            first = others.pop(0)
            await self._ask(first, clients[first], wait_s=0)
        async with asyncio.TaskGroup() as group:
            for other in others:
                group.create_task(self._ask(other, clients[other], wait_s=0))

    async def _look_when_wanted(self, clients: dict[Source, HttpClient]) -> None:
        """Look once for all who want it, for ever. The others are asked while the writer is silent."""
        writer = next((one for one in clients if one.is_writer), None)
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            look, self._next = self._next, self._loop.create_future()
            try:
                if writer is None or not await self._ask(writer, clients[writer], wait_s=0, answer_s=LOOK_ANSWER_S):
                    await self._ask_others(clients)
            finally:
                look.set_result(None)
            await asyncio.sleep(REFRESH_EVERY_S)

    async def _ask(self, source: Source, client: HttpClient, *, wait_s: int, answer_s: float = ANSWER_S) -> bool:
        """Ask *source*, and take what it says if it may be taken. Return whether it said what the roles are."""
        since = self.roles.version
        path = f"/v1/roles?wait_s={wait_s}" + (f"&since={quote(since)}" if since is not None else "")
        try:
            answer = decode(await client.get(path, timeout_s=wait_s + answer_s), RolesAnswer)
        except (HttpError, MessageError) as error:
            # Without the address asked for: it holds what names the content.
            self._say(source, str(error).partition(": ")[2] or str(error))
            return False
        if answer.version is None:
            self._say(source, answer.problem or "it does not know the roles")
            return False
        self._take(source, answer)
        return True

    def _take(self, source: Source, answer: RolesAnswer) -> None:
        self._say(source, answer.problem or "")
        if source.is_writer:
            if answer.lsn is not None and self._writer_lsn is not None and answer.lsn < self._writer_lsn:
                return
            self._writer_lsn = answer.lsn
        elif self.roles.is_known and not has_reached(answer.lsn, self._lsn):
            return
        if answer.credentials is not None:
            if not self.roles.is_known:
                self._log.info("roles are known", node=source.node, count=len(answer.credentials.roles))
            self.roles.put(answer.credentials)
            self.on_change()
            self._known.set()
        if self.roles.version == answer.version:
            self._lsn = answer.lsn
            self.heard_at = max(self.heard_at, self._loop.time() - (answer.age_ms or 0) / 1000)
            self._heard.set()
            self._heard.clear()

    def _say(self, source: Source, problem: str) -> None:
        """Log *problem* once."""
        if not source.is_writer and self.roles.is_known:
            return  # that others are asked was said with the writer's silence
        said = f"{source.node}: {problem}" if problem else ""
        if said != self._said:
            self._said = said
            if problem:
                self._log.warning("roles cannot be learned", node=source.node, reason=problem)
            else:
                self._log.info("roles are learned again", node=source.node)


def sources(topology: Topology | None) -> tuple[Source, ...]:
    """Return whom *topology* names to be asked, in the order of their names."""
    members = topology.members if topology is not None else ()
    writer = topology.writer if topology is not None else None
    return tuple(
        sorted(
            (Source(member.name, f"http://{member.noded}", member.name == writer) for member in members),
            key=lambda one: one.node,
        )
    )


def has_reached(lsn: Lsn | None, known: Lsn | None) -> bool:
    """Return whether a standby that has replayed up to *lsn* knows all that is *known*, or more; across histories a guess.

    At the same place it may still know more: a writer's commit is visible there only after it was sent to the standbys."""
    return lsn is not None and known is not None and lsn >= known
