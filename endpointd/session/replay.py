"""What was said on the short way to a session (quicklogin), for the ordinary login that takes over from there.

That one is told all that the client has said, and says the same as was said; the client hears only what is new.  Pure.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from endpointd.wire.tls import Channel
from pgwire.framing import HEADER_BYTES
from pgwire.messages import AuthenticationKind, Backend

_CHALLENGE = bytes((Backend.AUTHENTICATION,))
_CONTINUES = AuthenticationKind.SASL_CONTINUE.to_bytes(4)
_AT = HEADER_BYTES


@dataclass(frozen=True, slots=True)
class Replay:
    """Both sides' words."""

    said: bytes = field(repr=False)
    """By the client."""
    told: tuple[bytes, ...] = field(default=(), repr=False)
    """To the client, in order."""
    nonce: str | None = field(default=None, repr=False)
    """With which the client was challenged; None: it was not."""
    delay_s: float | None = None
    """For how long the answer to a wrong proof is to be held back, if that was counted already."""
    channel: Channel | None = None
    """How TLS is spoken with it, or about to be; both have said the rest by that."""


class Repeated:
    """What a client was told already, and is not told again."""

    def __init__(self, told: Iterable[bytes] = ()) -> None:
        self._told = deque(told)

    def rest_of(self, words: bytes) -> bytes:
        """Return what of *words* is new. Where they differ from what was said all are, from then on, but for a challenge.

        It differs if the role's password was set anew since the client was challenged: it has answered, and not this one.
        """
        if self._told and words == self._told[0]:
            self._told.popleft()
            return b""
        is_second = len(self._told) > 0 and words.startswith(_CHALLENGE) and words[_AT:].startswith(_CONTINUES)
        self._told.clear()
        return b"" if is_second else words
