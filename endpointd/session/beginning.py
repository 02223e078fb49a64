"""What a server's session begins with, asked for right behind a login: without it nobody else may ever have that session.

The question is on its way before the login is over, so that it costs the client no round trip; the answer is ours alone. Pure.
"""

from __future__ import annotations

from endpointd.servers.upkeep import ASK, State, read_answer, state_of
from pgwire.errors import ProtocolError
from pgwire.messages import Backend as Kind
from pgwire.messages import message

QUESTION = ASK

_CLIENTS = frozenset({Kind.PARAMETER_STATUS, Kind.NOTICE_RESPONSE, Kind.NOTIFICATION_RESPONSE})
"""What a server may say at any time, and its client is to hear."""


class Beginning:
    """The answer of one server."""

    def __init__(self, *, user: str, database: str, needs_valid: bool) -> None:
        """See state_of."""
        self._user = user
        self._database = database
        self._needs_valid = needs_valid
        self._said = b""
        self.is_asked = False
        """Whether the login is over, and what comes is the answer."""
        self.is_over = False
        self.state: State | None = None
        """Of the session, when it is over; None: nobody else may have it."""

    def takes(self, kind: int) -> bool:
        """Return whether a message of this *kind* belongs to the answer, and not to the client."""
        return self.is_asked and kind not in _CLIENTS

    def heard(self, kind: int, payload: bytes) -> None:
        """Take a part of the answer."""
        self._said += message(kind, payload)
        if kind != Kind.READY_FOR_QUERY:
            return
        self.is_over = True
        try:
            answer = read_answer(self._said)
        except ProtocolError:
            return
        if answer is not None:
            self.state = state_of(answer, user=self._user, database=self._database, needs_valid=self._needs_valid)
