"""The safe point of the native engine beside the one in Python: both are fed the same, and have to believe the same."""

from __future__ import annotations

from collections.abc import Callable

from endpointd.relay.facts import Doing
from endpointd.relay.relaxed import Relaxed, relaxed_by
from endpointd.relay.safepoint import SafePoint
from pgwire.errors import ProtocolError

try:
    from endpointd.relay import _native as native
except ImportError:  # it was not built: whoever compares has to skip
    native = None

DOINGS = (Doing.IDLE, Doing.IN_TRANSACTION, Doing.BUSY)


class Twins:
    """Two safe points of one session. Every method raises AssertionError where they differ."""

    def __init__(self, watch: Relaxed | None) -> None:
        assert native is not None
        self._ours = SafePoint(watch)
        self._native = native.SafePoint(native.NOT_WATCHED if watch is None else watch.value)
        self.is_over = False
        """A side sent what is no chain of messages."""
        self._same()

    @property
    def may_have_committed(self) -> bool:
        """What both believe."""
        return self._ours.may_have_committed

    def client_sent(self, chunk: bytes) -> None:
        """The client sent *chunk*."""
        try:
            expected: Relaxed | None = self._ours.client_sent(chunk)
        except ProtocolError:
            self.is_over = True
            _must_refuse(self._native.client_sent, chunk)
        else:
            found = 0
            for text in self._native.client_sent(chunk):
                found |= self._native.relaxes(relaxed_by(text).value)
            assert found == (expected.value if expected is not None else 0)
        self._same()

    def server_sent(self, chunk: bytes) -> None:
        """The server sent *chunk*."""
        try:
            expected = self._ours.server_sent(chunk)
        except ProtocolError:
            self.is_over = True
            _must_refuse(self._native.server_sent, chunk)
        else:
            assert self._native.server_sent(chunk) == expected
        self._same()

    def cancel(self, *, begins: bool) -> None:
        """A cancel request begins, or ends."""
        if begins:
            self._ours.cancel_begins()
            self._native.cancel_begins()
        else:
            self._ours.cancel_ended()
            self._native.cancel_ended()
        self._same()

    def _same(self) -> None:
        ours = self._ours
        boundary, missing, doing, *rest = self._native.state()
        assert DOINGS[doing] is ours.doing
        assert rest == [
            ours.is_awaited,
            ours.is_streaming,
            ours.may_have_committed,
            ours.client_terminated,
            ours.server_said_goodbye,
            ours.is_in_doubt,
        ]
        if not self.is_over:
            assert (max(0, boundary), missing) == (max(0, ours.boundary), ours.missing)


def _must_refuse(feed: Callable[[bytes], object], chunk: bytes) -> None:
    try:
        feed(chunk)
    except ValueError:
        return
    raise AssertionError("the native one takes what the other one refuses")
