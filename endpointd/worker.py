"""A worker: a process that serves at the sockets of its main process, which started it, counts for it and tells it to end."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping, Sequence
from socket import socket

import msgspec
from prometheus_client import REGISTRY

from daemonkit.httpserver import registered
from daemonkit.lifecycle import Lifecycle
from daemonkit.program import Running
from daemonkit.racing import first_of
from endpointd.entrances import Entrances
from endpointd.gathered import first_sessions
from endpointd.routing.feed import document_cache
from endpointd.routing.switchboard import Switchboard
from endpointd.service import Service, let_end
from endpointd.settings import Settings, limits_of_process
from endpointd.takeover.incumbent import Incumbent
from endpointd.takeover.words import Standing
from endpointd.wire.keeper import TlsKeeper
from endpointd.workers.gathering import families_of
from endpointd.workers.membership import join, lent_settings, read_hands
from endpointd.workers.words import Asked, Turn


class _Hand:
    """Does what the main process says (workers.membership.Obedient)."""

    def __init__(self, service: Service, sockets: Mapping[str, Sequence[socket]], life: Lifecycle) -> None:
        self._service = service
        self._life = life
        self._sockets = sockets
        self._is_open = False
        self.relieved = asyncio.Event()
        self.over = asyncio.Event()
        """Set when the worker is to end: by a signal, or by the main process. A signal that follows is the first one still."""
        self.main_pid = 0

    def standing(self) -> Standing:
        """Return how this worker stands."""
        return self._service.standing()

    @property
    def upcoming(self) -> int:
        """The number that the next session will have."""
        return self._service.registry.upcoming

    def take_turn(self, turn: Turn) -> None:
        """Let clients in, let them wait, or let go of the sockets."""
        receptions = [listener.reception for listener in self._service.listeners]
        match turn.do:
            case "accept" if not self._is_open:
                self._is_open = True
                self._service.open(self._sockets)
            case "accept":
                for one in receptions:
                    one.resume()
            case "wait":
                for one in receptions:
                    one.pause()
            case "drain":
                self.let_go()
                self.main_pid = turn.main_pid
                self.relieved.set()
            case "end":
                self.over.set()

    def reload(self, settings: str) -> None:
        """Go by *settings*, as a file would say them."""
        lent = lent_settings()
        assert lent is not None, "the main process lends them to each worker"
        lent.write_text(settings, encoding="utf-8")
        self._life.reload()

    def let_go(self) -> None:
        """Let go of the sockets."""
        for listener in self._service.listeners:
            listener.reception.cede()
        if not self._is_open:
            for each in (one for some in self._sockets.values() for one in some):
                each.close()

    def answer(self, asked: Asked) -> Awaitable[bytes]:
        """Return what the main process tells over HTTP of this worker."""
        return self._metrics() if asked.what == "metrics" else self._sessions(asked)

    async def _metrics(self) -> bytes:
        return msgspec.msgpack.encode(families_of(REGISTRY.collect()))

    async def _sessions(self, asked: Asked) -> bytes:
        return msgspec.msgpack.encode(await first_sessions(self._service.roster, asked.after, asked.most))


async def serve_as_worker(proxy: Running[Settings], tls: TlsKeeper, number: int) -> None:
    """Be the worker with this *number*, from 1, until told to stop, or the main process has gone."""
    settings, life = proxy.settings, proxy.life
    hands = read_hands()
    proxy.log_under(f"{settings.proxy.name}.worker-{number}")
    board = Switchboard(limits_of_process(settings.limits, hands.processes))
    membership, sockets = await join(hands, board)
    cache = document_cache(settings.proxy.cache)  # read here, and written by the main process
    async with asyncio.TaskGroup() as group:
        service = Service(
            proxy, tls, board, membership, cache, group, first_session=hands.first_session, processes=hands.processes
        )
        hand = _Hand(service, sockets, life)
        incumbent = Incumbent(settings.proxy.takeover, Entrances(service.standing, service.cancel), service.colleagues)

        async def obey() -> None:
            await membership.run(hand)
            hand.over.set()

        async def heed() -> None:
            await life.stopping.wait()
            hand.over.set()

        def take_up(new: Settings) -> dict[str, object]:
            service.take_up(new)
            return {}

        tasks = [group.create_task(work) for work in (*service.background(), incumbent.run(), obey(), heed())]
        try:
            incumbent.listen()
            with registered(service.collector()):
                proxy.on_reload(take_up)
                await first_of(hand.relieved.wait(), hand.over.wait())
                if not hand.over.is_set():
                    service.call_draining(hand.main_pid)
                    emptied = let_end(lambda: service.is_empty, lambda: len(service.registry), settings.proxy.drain_timeout_s)
                    await first_of(emptied, hand.over.wait())
                hand.let_go()
                service.close()
                await service.drain()
        finally:
            incumbent.close()
            service.close()
            for task in tasks:
                task.cancel()
