"""One client, from its first byte to its last: a login, then a relay that is watched over. A session is one task."""

from __future__ import annotations

import asyncio
from typing import assert_never

from daemonkit.logs import get_logger
from endpointd import metrics, refusal
from endpointd.eviction import Eviction, When, farewell
from endpointd.link import Link
from endpointd.login import Established, Login, Surroundings
from endpointd.refusal import Refusal
from endpointd.relay.seam import Happening, Stats
from endpointd.routing import Backend, Door
from pgwire.errors import ProtocolError

BREATH_S = 0.05
"""Between a server's last answer and our farewell. libpq takes an error that it reads together with a ReadyForQuery for a mere
notice; a moment later it is the answer to the next query, SQLSTATE and all."""


class Session:
    """A client's session."""

    def __init__(self, number: int, door: Door, client: Link, around: Surroundings, *, unwelcome: Refusal | None) -> None:
        """*unwelcome*: a session that will be refused as soon as it has said what it wants."""
        self.number = number
        self.door = door
        self.login = Login(number, door, client, around, self, unwelcome=unwelcome)
        self.reason = ""
        """Why it ended, for the log."""
        self._client = client
        self._around = around
        self._loop = asyncio.get_running_loop()
        self.opened_at = self._loop.time()
        self._relayed: Established | None = None
        """What the relay is made of, while there is one."""
        self._over = asyncio.Event()
        self._stop: Refusal | None = None
        self._is_at_safe_point = False

    # What others ask

    @property
    def backend(self) -> Backend | None:
        """The server it has, if any."""
        return self.login.backend

    @property
    def stats(self) -> Stats | None:
        """What its relay has done, once there is one."""
        return self._around.engine.stats(self.number) if self._relayed is not None else None

    @property
    def peer(self) -> str:
        """The client's address."""
        return self._client.peer

    def evict(self, eviction: Eviction) -> None:
        """End: see Evictable."""
        if self._relayed is None:
            self.login.evict(eviction.refusal)
        elif eviction.when is When.NOW:
            self._say_farewell(eviction.refusal)
        else:
            self._end_when_safe(eviction.refusal)

    def pause(self) -> None:
        """Let the client wait: see Evictable. A login goes on; whether its session has to wait is asked when it begins."""
        if self._relayed is not None:
            self._around.engine.pause(self.number)

    def resume(self) -> None:
        """Let the client go on: see Evictable."""
        if self._relayed is not None and self._stop is None:
            self._is_at_safe_point = False
            self._around.engine.resume(self.number)

    def drain(self, why: Refusal) -> None:
        """End at the next safe point; a login ends now."""
        if self._relayed is not None:
            self._end_when_safe(why)
        else:
            self.login.stop(why)

    def end(self, why: Refusal) -> None:
        """End now."""
        if self._relayed is not None:
            self._say_farewell(why)
        else:
            self.login.stop(why)

    # Its life

    async def run(self) -> None:
        """Serve the client until it or its server is gone."""
        established: Established | None = None
        try:
            established = await self.login.run()
            if established is not None:
                self._relay(established)
                await self._over.wait()
            else:
                self.reason = self.login.reason
        except Exception:
            # The one broad except, around one unit of work: a fault of ours ends one session and is seen.
            metrics.BUGS.inc()
            get_logger().exception("session failed", session=self.number, endpoint=self.door)
            self._client.write(refusal.internal_error().encode())
        finally:
            self._close(established)

    def _relay(self, established: Established) -> None:
        board, engine = self._around.board, self._around.engine
        if not board.stands(self.number):
            # The table changed in the very moment of the login's end.
            self._client.write(refusal.primary_changed().encode())
            self._finish("evicted")
            return
        if established.key is not None:
            board.keys.add(established.key, self.number, established.backend.address)
        metrics.SESSIONS_OPENED.labels(self.door, established.backend.node).inc()
        self._relayed = established
        engine.add(
            self.number,
            self._client,
            established.server,
            self.login.conversation.point,
            self._told,
            server_rest=established.server_rest,
            client_rest=established.client_rest,
        )
        if self._relayed is not None and board.must_wait(self.number):
            engine.pause(self.number)

    def _told(self, happening: Happening) -> None:
        point = self.login.conversation.point
        match happening:
            case Happening.PAUSED:
                self._is_at_safe_point = True
                if self._stop is not None:
                    self._loop.call_later(BREATH_S, self._say_farewell, self._stop)
            case Happening.CLIENT_ENDED:
                self._end_relay(None, "the client went away")
            case Happening.CLIENT_NOT_UNDERSTOOD:
                why = refusal.not_understood(ProtocolError("invalid message length"))
                self._end_relay(why, why.message)
            case Happening.SERVER_ENDED:
                if point.has_left or point.server_said_goodbye:
                    self._end_relay(None, "the server ended the session")
                else:
                    self._say_farewell(self._stop)
            case Happening.COMMIT_UNCONFIRMED:
                why = refusal.commit_unconfirmed()
                self._end_relay(why, why.message)
            case _:
                assert_never(happening)

    # The end

    def _end_when_safe(self, why: Refusal) -> None:
        self._stop = why
        if self._is_at_safe_point:
            self._say_farewell(why)
        else:
            self._around.engine.pause(self.number)

    def _say_farewell(self, because: Refusal | None) -> None:
        if self._relayed is None:
            return
        doing = self.login.conversation.point.doing
        why = farewell(doing, is_writer=self._relayed.backend.is_writer, because=because)
        self._end_relay(why, why.message)

    def _end_relay(self, why: Refusal | None, reason: str) -> None:
        if self._relayed is None:
            return
        self._relayed = None
        if why is not None:
            metrics.REFUSALS.labels(self.door, why.sqlstate).inc()
        self._around.engine.drop(self.number, why.encode() if why is not None else b"")
        # At once, not when this task runs: a report may be waiting for the last of a lost writer's sessions.
        self._around.board.release(self.number)
        self._finish(reason)

    def _finish(self, reason: str) -> None:
        self.reason = reason
        self._over.set()

    def _close(self, established: Established | None) -> None:
        if self._relayed is not None:
            self._relayed = None
            self._around.engine.drop(self.number)
        if established is not None:
            metrics.BYTES.labels(self.door, "to_server").inc(established.server.bytes_sent)
            established.server.close()
            if established.key is not None:
                self._around.board.keys.remove(established.key, self.number)
        metrics.BYTES.labels(self.door, "to_client").inc(self._client.bytes_sent)
        self._client.finish()
        self._around.board.release(self.number)
