"""Keeps server connections whose clients have left for the next clients: resets them, looks after them, gives them out.

What is kept is decided by the pool (warmpool.py), what is said to the servers by upkeep.py.  A connection that does not answer
as it should, or says something unasked, is closed, and whoever wanted it gets another one or a fresh one.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from endpointd import metrics
from endpointd.routing.table import EMPTY, Table
from endpointd.servers import upkeep
from endpointd.servers.upkeep import Answer
from endpointd.servers.warmpool import ServerSession, WarmKey, WarmPool
from endpointd.settings import WarmSettings
from endpointd.wire.link import DISCARD, Link
from endpointd.wire.looseend import LooseEnd
from pgwire.errors import ProtocolError

RESET_S = 5.0
"""DISCARD ALL drops temporary tables, of which there may be many."""
CHECK_S = 2.0
"""A server that needs longer to say whether a kept session is still right is asked for a new one instead."""
LOOK_S = 5.0
TICK_S = 1.0
"""How often it is looked who is overdue, and whether others want a database for themselves: PostgreSQL waits 5 s for its users
to leave, then DROP DATABASE fails."""
ARRIVING_MAX = 256
"""Sockets that no link was made of yet."""
FULL_S = 5.0
"""For so long nothing is kept at a server that had no connection left."""


@dataclass(frozen=True, slots=True)
class Warm:
    """A server connection for a client."""

    link: Link
    session: ServerSession
    reported: bytes
    """The parameters, as the server would report them to a login now."""


class _Kept:
    """One connection, and what is known of it; the receiver of its link."""

    def __init__(self, owner: WarmServers, token: int, link: Link, session: ServerSession) -> None:
        self._owner = owner
        self.token = token
        self.link = link
        self.session = session
        self._said = b""
        self._told: Callable[[Answer | None], None] | None = None
        self._deadline: asyncio.TimerHandle | None = None

    def ask(self, question: bytes, timeout_s: float, told: Callable[[Answer | None], None]) -> None:
        """Ask *question*; *told* is called once, with the answer, or None if there is none that can be used."""
        self._said, self._told = b"", told
        self._deadline = asyncio.get_running_loop().call_later(timeout_s, self._tell, None)
        self.link.write(question)

    def _tell(self, answer: Answer | None) -> None:
        told, self._told, self._said = self._told, None, b""
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        if told is not None:
            told(answer)
        else:
            self._owner.discard(self, "server_ended")

    def received(self, data: memoryview) -> None:
        """Take what the server says; unasked it has nothing to say that would not have it closed."""
        answer: Answer | None = None
        if self._told is not None:
            try:
                answer = self._read(bytes(data))
            except ProtocolError:
                self._tell(None)
                return
            if answer is None:
                return
        self._tell(answer)

    def _read(self, data: bytes) -> Answer | None:
        self._said += data
        return upkeep.read_answer(self._said)

    def ended(self) -> None:
        """The server has closed it."""
        self._tell(None)

    def broken(self) -> None:
        """`ended` came before."""

    def writable(self, is_writable: bool) -> None:
        """What is said is short."""

    def let_go(self) -> Link:
        """Return the link to whoever has it from now on."""
        self._told = None
        if self._deadline is not None:
            self._deadline.cancel()
        self.link.receiver = DISCARD
        return self.link

    def judge(self, answer: Answer | None) -> tuple[bytes, ...] | None:
        """Return the values of the session's parameters, if a client may have it: a login would end in one like it."""
        if answer is None:
            return None
        wish, session = self.session.key.wish, self.session
        state = upkeep.state_of(answer, user=wish.user, database=wish.database, needs_valid=not wish.is_vouched)
        is_fit = state is not None and state.settings == session.settings and len(state.parameters) == len(session.names)
        return state.parameters if state is not None and is_fit else None


class WarmServers:
    """One for the process."""

    def __init__(self, settings: WarmSettings) -> None:
        self.settings = settings
        """May be exchanged while the program runs."""
        self._loop = asyncio.get_running_loop()
        self._pool = WarmPool()
        self._kept: dict[int, _Kept] = {}
        self._tokens = itertools.count(1)
        self._arriving: asyncio.Queue[tuple[LooseEnd, ServerSession, Table]] = asyncio.Queue()
        """With the table that held when they came."""
        self._table = EMPTY
        self._is_closed = False

    def __len__(self) -> int:
        return len(self._pool)

    def by_node(self) -> dict[str, int]:
        """Return how many are kept at each server."""
        found: dict[str, int] = {}
        for _, session in self._pool:
            node = session.key.backend.node
            found[node] = found.get(node, 0) + 1
        return found

    # In and out

    def offer(self, end: Link | LooseEnd, session: ServerSession) -> None:
        """Have *end*, whose client has left clean, for the next one; it is closed if it is not worth that."""
        is_wanted = not self._is_closed and self._pool.may_enter(session, self._loop.time(), self.settings)
        if isinstance(end, Link):
            if is_wanted:
                self._enter(end, session)
            else:
                _say_goodbye(end)
        elif is_wanted and self._arriving.qsize() < ARRIVING_MAX:
            self._arriving.put_nowait((end, session, self._table))
        else:
            end.close(upkeep.GOODBYE)

    async def _let_in(self) -> None:
        """Make links of the ends that were offered, for ever."""
        while True:
            end, session, table = await self._arriving.get()
            if self._is_closed:
                end.close(upkeep.GOODBYE)
                continue
            with contextlib.suppress(OSError):
                self.offer(await end.link(), session)
            if table is not self._table:
                self.go_by(self._table)

    def _enter(self, link: Link, session: ServerSession) -> None:
        now = self._loop.time()
        kept = _Kept(self, next(self._tokens), link, session)
        self._kept[kept.token] = kept
        leaving = self._pool.enter(kept.token, session, now, self.settings)
        link.receiver = kept
        if kept.token in self._kept:  # it may have been told of its end at once
            link.resume_reading()
            kept.ask(upkeep.RESET, RESET_S, lambda answer: self._was_reset(kept, answer))
        self._discard(leaving, "full")

    def _was_reset(self, kept: _Kept, answer: Answer | None) -> None:
        if answer is None:
            self.discard(kept, "reset_failed")
        else:
            self._pool.ready(kept.token)

    def has(self, key: WarmKey) -> bool:
        """Return whether there is one for *key*."""
        return self._pool.has(key)

    async def take(self, key: WarmKey) -> Warm | None:
        """Return a connection for whoever would have come to one of *key* by a login, which would succeed now; or None."""
        while (token := self._pool.take(key, self._loop.time(), self.settings)) is not None:
            kept = self._kept.pop(token)
            outcome: asyncio.Future[Answer | None] = self._loop.create_future()

            def told(answer: Answer | None, outcome: asyncio.Future[Answer | None] = outcome) -> None:
                if not outcome.done():
                    outcome.set_result(answer)

            kept.ask(upkeep.ask_with(kept.session.names), CHECK_S, told)
            values: tuple[bytes, ...] | None = None
            try:
                values = kept.judge(await outcome)
            finally:
                link = kept.let_go()
                if values is None:
                    metrics.WARM_DISCARDED.labels("unfit").inc()
                    _say_goodbye(link)
            if values is not None:
                return Warm(link, kept.session, upkeep.as_reported(kept.session.names, values))
        return None

    # Who has to go

    def discard(self, kept: _Kept, reason: str) -> None:
        """Close one that is kept; one that is not any longer is no error."""
        if self._kept.pop(kept.token, None) is None:
            return
        self._pool.leave(kept.token)
        metrics.WARM_DISCARDED.labels(reason).inc()
        _say_goodbye(kept.let_go())

    def _discard(self, tokens: Iterable[int], reason: str) -> None:
        for token in tokens:
            kept = self._kept.get(token)
            if kept is not None:
                self.discard(kept, reason)

    def go_by(self, table: Table) -> None:
        """Keep nothing at whom *table* does not stand for as before."""
        self._table = table
        self._discard(self._pool.unfit(table), "evicted")

    def keep_only(self, is_welcome: Callable[[ServerSession], bool]) -> None:
        """Keep nothing of roles that have changed."""
        self._discard([token for token, session in self._pool if not is_welcome(session)], "role")

    def make_room(self, node: str) -> bool:
        """Close all at *node*, which has no connection left, and keep none there for a moment. Return if there were any."""
        self._pool.is_full(node, self._loop.time() + FULL_S)
        leaving = self._pool.at(node)
        self._discard(leaving, "server_full")
        return bool(leaving)

    def close(self) -> None:
        """Keep nothing any more."""
        self._is_closed = True
        while not self._arriving.empty():
            self._arriving.get_nowait()[0].close(upkeep.GOODBYE)
        self._discard(tuple(self._kept), "shutting_down")

    async def run(self) -> None:
        """Look after those that are kept, for ever."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._let_in())
            group.create_task(self._look_after())

    async def _look_after(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            if not self.settings.enabled:
                self._discard(tuple(self._kept), "disabled")
            for token, reason in self._pool.overdue(self._loop.time(), self.settings).items():
                self.discard(self._kept[token], reason)
            for token in self._pool.watchers(self._loop.time() - TICK_S):
                self._look(self._kept[token])

    def _look(self, kept: _Kept) -> None:
        """Ask whether others want the database for themselves."""

        def told(answer: Answer | None) -> None:
            if answer is None:
                self.discard(kept, "server_ended")
            elif upkeep.is_wanted_by_others(answer):
                key = kept.session.key
                wanted = (key.backend, key.wish.database)
                self._discard(
                    [token for token, each in self._pool if (each.key.backend, each.key.wish.database) == wanted],
                    "database_wanted",
                )
            else:
                self._pool.ready(kept.token)

        self._pool.ready(kept.token, is_ready=False)
        kept.ask(upkeep.LOOK, LOOK_S, told)


def _say_goodbye(link: Link) -> None:
    link.receiver = DISCARD
    link.write(upkeep.GOODBYE)
    link.close()
