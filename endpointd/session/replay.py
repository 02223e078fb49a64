"""What was said on the short way to a session (quicklogin), for the ordinary login that takes over from there.

That one is told all that the client has said, and says the same as was said; the client hears only what is new.  Pure.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Replay:
    """Both sides' words."""

    said: bytes = field(repr=False)
    """By the client."""
    told: tuple[bytes, ...] = field(default=(), repr=False)
    """To the client, in order."""
    nonce: str | None = field(default=None, repr=False)
    """With which the client was challenged; None: it was not."""


class Repeated:
    """What a client was told already, and is not told again."""

    def __init__(self, told: Iterable[bytes] = ()) -> None:
        self._told = deque(told)

    def rest_of(self, words: bytes) -> bytes:
        """Return what of *words* is new. Where they differ from what was said all are, from then on."""
        if self._told and words == self._told[0]:
            self._told.popleft()
            return b""
        self._told.clear()
        return words
