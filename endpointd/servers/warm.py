"""Keeps server connections whose clients have left for the next clients: resets them, looks after them, gives them out.

What is kept is decided by the pool (warmpool.py), what is said to the servers by upkeep.py.  A connection that does not answer
as it should, or says something unasked, is closed, and whoever wanted it gets another one or a fresh one.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from endpointd import metrics
from endpointd.routing.table import EMPTY, Backend, Table
from endpointd.servers import upkeep
from endpointd.servers.upkeep import Answer
from endpointd.servers.warmpool import ServerSession, WarmKey, WarmPool, fits
from endpointd.settings import WarmSettings
from endpointd.wire.looseend import LooseEnd
from pgtopology.epoch import Epoch
from pgwire.errors import ProtocolError

RESET_S = 5.0
"""DISCARD ALL drops temporary tables, of which there may be many."""
CHECK_S = 2.0
"""A server that needs longer to say whether a kept session is still right is asked for a new one instead."""
LOOK_S = 5.0
TICK_S = 1.0
"""How often it is looked who is overdue, and whether others want a database for themselves: PostgreSQL waits 5 s for its users
to leave, then DROP DATABASE fails."""
FULL_S = 5.0
"""For so long nothing is kept at a server that had no connection left."""


@dataclass(frozen=True, slots=True)
class Warm:
    """A server connection for a client."""

    end: LooseEnd
    session: ServerSession
    reported: bytes
    """The parameters, as the server would report them to a login now."""


class _Kept:
    """One connection, and what is known of it."""

    def __init__(self, owner: WarmServers, token: int, end: LooseEnd, session: ServerSession) -> None:
        self._owner = owner
        self.token = token
        self._end = end
        self.session = session
        self._said = b""
        self._told: Callable[[Answer | None], None] | None = None
        self._deadline: asyncio.TimerHandle | None = None
        end.hear(self._heard)

    def ask(self, question: bytes, timeout_s: float, told: Callable[[Answer | None], None]) -> None:
        """Ask *question*; *told* is called once, with the answer, or None if there is none that can be used."""
        self._said, self._told = b"", told
        self._deadline = asyncio.get_running_loop().call_later(timeout_s, self._tell, None)
        if not self._end.say(question):
            self._tell(None)

    def _tell(self, answer: Answer | None) -> None:
        told, self._told, self._said = self._told, None, b""
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        if told is not None:
            told(answer)
        else:
            self._owner.discard(self, "server_ended")

    def _heard(self, data: bytes | None) -> None:
        """Take what the server says; unasked it has nothing to say that would not have it closed."""
        answer: Answer | None = None
        if self._told is not None and data is not None:
            self._said += data
            try:
                answer = upkeep.read_answer(self._said)
            except ProtocolError:
                self._tell(None)
                return
            if answer is None:
                return
        self._tell(answer)

    def let_go(self) -> LooseEnd:
        """Return the connection to whoever has it from now on."""
        self._told = None
        if self._deadline is not None:
            self._deadline.cancel()
        self._end.hush()
        return self._end

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
        self._table = EMPTY
        self._fitting: dict[tuple[Backend, Epoch], bool] = {}
        """What was found by that, of whoever sessions were offered of since."""
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

    def offer(self, end: LooseEnd, session: ServerSession) -> None:
        """Have *end*, whose client has left clean, for the next one; it is closed if it is not worth that."""
        now = self._loop.time()
        if self._is_closed or not self._fits(session.key) or not self._pool.may_enter(session, now, self.settings):
            end.close(upkeep.GOODBYE)
            return
        kept = _Kept(self, next(self._tokens), end, session)
        self._kept[kept.token] = kept
        leaving = self._pool.enter(kept.token, session, now, self.settings)
        kept.ask(upkeep.RESET, RESET_S, lambda answer: self._was_reset(kept, answer))
        self._discard(leaving, "full")

    def _fits(self, key: WarmKey) -> bool:
        """Return whether the table that holds now still stands for *key*: a client may have left in the moment of a change."""
        place = key.backend, key.epoch
        found = self._fitting.get(place)
        if found is None:
            found = self._fitting[place] = fits(*place, self._table)
        return found

    def _was_reset(self, kept: _Kept, answer: Answer | None) -> None:
        if answer is None:
            self.discard(kept, "reset_failed")
        else:
            self._pool.ready(kept.token)

    def has(self, key: WarmKey) -> bool:
        """Return whether there is one for *key*."""
        return self._pool.has(key)

    def expects(self, key: WarmKey) -> bool:
        """Return whether there is one for *key*, or will be when it is reset."""
        return self._pool.expects(key)

    async def take(self, key: WarmKey) -> Warm | None:
        """Return a connection for whoever would have come to one of *key* by a login, which would succeed now; or None."""
        outcome: asyncio.Future[Warm | None] = self._loop.create_future()

        def told(warm: Warm | None) -> None:
            if not outcome.done():
                outcome.set_result(warm)
            elif warm is not None:
                self.offer(warm.end, warm.session)

        self.take_soon(key, told, lambda: not outcome.done())
        return await outcome

    def take_soon(
        self, key: WarmKey, told: Callable[[Warm | None], None], is_wanted: Callable[[], bool] = lambda: True
    ) -> None:
        """Have *told* called with what `take` returns, once; no other connection is asked when it *is_wanted* no more."""
        token = self._pool.take(key, self._loop.time(), self.settings) if is_wanted() else None
        if token is None:
            told(None)
            return
        kept = self._kept.pop(token)

        def answered(answer: Answer | None) -> None:
            values, end = kept.judge(answer), kept.let_go()
            if values is not None:
                told(Warm(end, kept.session, upkeep.as_reported(kept.session.names, values)))
                return
            metrics.WARM_DISCARDED.labels("unfit").inc()
            end.close(upkeep.GOODBYE)
            self.take_soon(key, told, is_wanted)

        kept.ask(upkeep.ask_with(kept.session.names), CHECK_S, answered)

    # Who has to go

    def discard(self, kept: _Kept, reason: str) -> None:
        """Close one that is kept; one that is not any longer is no error."""
        if self._kept.pop(kept.token, None) is None:
            return
        self._pool.leave(kept.token)
        metrics.WARM_DISCARDED.labels(reason).inc()
        kept.let_go().close(upkeep.GOODBYE)

    def _discard(self, tokens: Iterable[int], reason: str) -> None:
        for token in tokens:
            kept = self._kept.get(token)
            if kept is not None:
                self.discard(kept, reason)

    def go_by(self, table: Table) -> None:
        """Keep nothing at whom *table* does not stand for as before."""
        self._table = table
        self._fitting.clear()
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
        self._discard(tuple(self._kept), "shutting_down")

    async def run(self) -> None:
        """Look after those that are kept, for ever."""
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
