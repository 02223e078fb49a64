"""A client's cancel request that came to a proxy which has no session with its key, on its way to the one that has.

The proxy posts it to a manager, which puts it into the frames of the other proxies' feeds; each looks among its own sessions
alone, asks nobody further, and posts whether it had one.  So proxies need not know where the others are, and no request goes
round in circles.
"""

from __future__ import annotations

import hashlib
from typing import Annotated

import msgspec

from pgtopology.document import FORMAT_VERSION

CANCELS_PATH = "/v1/feed/cancels"
"""Of the manager: where a proxy posts what it cannot carry out, and is told whether somebody could."""
CANCELLED_PATH = "/v1/feed/cancelled"
"""Where the others post what they found."""
CARRY_S = 5.0
"""Nobody waits longer for a request to be carried out, wherever it is; PostgreSQL's clients have no time limit of their own."""
PACKET_BYTES_MAX = 12 + 256
"""A CancelRequest with the longest key there may be."""

PROXY_ID_BYTES = 8

_Packet = Annotated[bytes, msgspec.Meta(max_length=PACKET_BYTES_MAX)]


def proxy_id(name: str) -> bytes:
    """Return by what the proxy called *name* in its settings is known in cancel keys."""
    return hashlib.sha256(name.encode()).digest()[:PROXY_ID_BYTES]


class CancelWish(msgspec.Struct, frozen=True, kw_only=True):
    """What a proxy posts: a request whose session it does not have."""

    proxy: str
    """Who asks, by the name in its settings: its own processes have been asked already."""
    packet: _Packet
    """As the client sent it."""
    owner: bytes | None = None
    """Whose session it is (`proxy_id`), if the key says so; None: anybody's."""
    format_version: int = FORMAT_VERSION


class CancelDone(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to it, when the request has been carried out, or nobody had the session."""

    found: bool
    format_version: int = FORMAT_VERSION


class CancelQuestion(msgspec.Struct, frozen=True, kw_only=True):
    """What a manager puts into a frame."""

    id: str
    packet: bytes


class CancelAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """What a proxy posts that was asked."""

    id: str
    found: bool
    format_version: int = FORMAT_VERSION
