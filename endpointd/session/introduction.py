"""A connection that a balancer passes on, until it has said whose it is: the PROXY protocol's header, in front of all else."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from endpointd import refusal
from endpointd.refusal import Refusal
from endpointd.wire.link import Link
from pgwire.errors import ProtocolError
from pgwire.proxyheader import Header, read_header


class Introduction:
    """The link's receiver until then. Tells *done* once: the header or None, what came behind it, and why it is refused."""

    def __init__(self, link: Link, timeout_s: float, done: Callable[[Header | None, bytes, Refusal | None], None]) -> None:
        self._link = link
        self._done = done
        self._data = bytearray()
        self._is_over = False
        self._deadline = asyncio.get_running_loop().call_later(timeout_s, self._end, refusal.startup_timeout())
        link.receiver = self

    def give_up(self) -> None:
        """Wait no longer: the connection has to go."""
        self._end(None)

    def received(self, data: memoryview) -> None:
        """Read the header. No more than that and one read is kept, since a longer one is none."""
        self._data += data
        try:
            header = read_header(self._data)
        except ProtocolError as error:
            self._end(refusal.not_understood(error))
            return
        if header is not None:
            self._tell(header, bytes(self._data[header.size :]), None)

    def ended(self) -> None:
        """It leaves without a word."""
        self._end(None)

    def broken(self) -> None:
        """Nothing more than `ended`, which comes before."""

    def writable(self, is_writable: bool) -> None:
        """Nothing is written yet."""

    def _end(self, why: Refusal | None) -> None:
        self._tell(None, b"", why)

    def _tell(self, header: Header | None, rest: bytes, why: Refusal | None) -> None:
        if not self._is_over:
            self._is_over = True
            self._deadline.cancel()
            self._done(header, rest, why)
