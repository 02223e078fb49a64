"""Whether PostgreSQL answers at its ports: the upstream's, and the socket of this node's own.

An SSLRequest is the cheapest question that needs a living postmaster: every forked backend answers it, before any limit on
clients counts.  A port that refuses, one that is silent and one that answers are three kinds of evidence.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from daemonkit.descriptors import TOO_MANY
from noded.postgres.doorway import Doorway
from noded.postgres.instance import Instance
from noded.report.attention import Attention
from noded.report.gatherer import Gatherer
from pgtopology.node import Address, Role
from pgtopology.observation import Port
from pgwire.startup import SSL_REQUEST


class UpstreamPort:
    """Tries the upstream's port while nothing is streamed from it: whether this host is refused there too is evidence."""

    INTERVAL_S = 0.1
    TIMEOUT_S = 0.25

    def __init__(self, instance: Instance, gatherer: Gatherer) -> None:
        self._instance = instance
        self._gatherer = gatherer
        self.met = Port.UNKNOWN

    async def run(self, on_change: Callable[[], None]) -> None:
        """Try for ever."""
        while True:
            upstream = self._missed()
            met = await self._try(upstream) if upstream is not None else Port.UNKNOWN
            if met is not self.met:
                self.met = met
                on_change()
            if upstream is not None:
                await asyncio.sleep(self.INTERVAL_S)
            else:
                await self._gatherer.next_round()

    def _missed(self) -> Address | None:
        """Return the address of the upstream from which nothing is streamed."""
        following, facts = self._instance.state.value.following, self._gatherer.facts
        if following is None or not self._instance.running or facts.role is Role.PRIMARY or facts.receiver_streaming:
            return None
        return following.upstream.address

    async def _try(self, address: Address) -> Port:
        try:
            async with asyncio.timeout(self.TIMEOUT_S):
                reader, writer = await asyncio.open_connection(address.host, address.port)
                try:
                    writer.write(SSL_REQUEST)
                    return Port.ANSWERS if await reader.read(1) else Port.SILENT
                finally:
                    writer.close()
        except ConnectionRefusedError:
            return Port.REFUSED
        except OSError as error:
            # What this host lacks itself says nothing of the other one.
            return Port.UNKNOWN if error.errno in TOO_MANY else Port.SILENT


class Deafness:
    """Knocks at PostgreSQL's door as a new client would, and counts how long nobody has opened.

    An SSLRequest is answered by every forked backend, before any limit on clients counts; only a postmaster that does not
    fork any more leaves it unanswered.
    """

    INTERVAL_S = 0.5
    TIMEOUT_S = 0.5

    def __init__(self, doorway: Doorway, attention: Attention, is_open: Callable[[], bool]) -> None:
        """*is_open*: whether PostgreSQL has said that it accepts connections; before that nobody expects an answer."""
        self._doorway = doorway
        self._attention = attention
        self._is_open = is_open
        self._since: float | None = None

    def milliseconds(self) -> int:
        """Return for how long fresh connections have gone unanswered while noded was awake."""
        return int((self._attention.now() - self._since) * 1000) if self._since is not None else 0

    async def run(self) -> None:
        """Knock for ever."""
        loop = asyncio.get_running_loop()
        while True:
            due, begun = loop.time() + self.INTERVAL_S, self._attention.now()
            if self._is_open() and not await self._is_opened(begun + self.TIMEOUT_S):
                self._since = self._since if self._since is not None else begun
            else:
                self._since = None
            await asyncio.sleep(max(0.0, due - loop.time()))

    async def _is_opened(self, deadline: float) -> bool:
        """Return whether somebody answers before *deadline*, which stands still while noded does: the answer may be there."""
        async with asyncio.TaskGroup() as tasks:
            knocking = tasks.create_task(self._knock())
            while (left_s := deadline - self._attention.now()) > 0:
                if (await asyncio.wait((knocking,), timeout=left_s))[0]:
                    return knocking.result()
            knocking.cancel()
        return False

    async def _knock(self) -> bool:
        writer: asyncio.StreamWriter | None = None
        try:
            self._doorway.keep()
            reader, writer = await asyncio.open_unix_connection(str(self._doorway.path))
            writer.write(SSL_REQUEST)
            return bool(await reader.read(1))
        except OSError as error:
            # A noded without descriptors has not knocked, and PostgreSQL is not deaf for it.
            return error.errno in TOO_MANY
        finally:
            if writer is not None:
                writer.close()
