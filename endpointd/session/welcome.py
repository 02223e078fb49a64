"""What a server says at the end of a login, kept back until the client may hear it. Pure, a part of the conversation."""

from __future__ import annotations

import functools
from collections.abc import Callable

from endpointd.routing.table import Backend
from endpointd.servers.serverlogin import LOGIN_BYTES_MAX
from endpointd.session.longkeys import MINOR
from pgwire.framing import HEADER_BYTES, LENGTH_BYTES, read_message
from pgwire.messages import (
    Authentication,
    AuthenticationKind,
    BackendKey,
    backend_key_data,
    decode_parameter_status,
    encode_authentication,
    message,
    ready_for_query,
)
from pgwire.messages import Backend as Kind
from pgwire.startup import MINOR_KNOWN

OK = encode_authentication(Authentication(AuthenticationKind.OK))
_READY = ready_for_query("I")
_PARAMETER_STATUS = bytes((Kind.PARAMETER_STATUS,))
IN_HOT_STANDBY = "in_hot_standby"
"""The parameter by which a server says whether it is a standby, since PostgreSQL 14."""
_IN_HOT_STANDBY = b"in_hot_standby\0"
_EVERYBODYS = frozenset({Kind.AUTHENTICATION, Kind.BACKEND_KEY_DATA, Kind.READY_FOR_QUERY})


@functools.lru_cache(maxsize=64)
def _shared_names(names: tuple[str, ...]) -> tuple[str, ...]:
    """Return an equal tuple, the same for all sessions."""
    return names


@functools.lru_cache(maxsize=64)
def hot_standby_in(reported: bytes) -> str | None:
    """Return the value of in_hot_standby in whole messages by which a server *reported* parameters; None: it is not there."""
    pos = 0
    while (said := read_message(reported, pos, bytes_max=LOGIN_BYTES_MAX)) is not None:
        name, value = decode_parameter_status(said.payload)
        if name == IN_HOT_STANDBY:
            return value
        pos = said.end
    return None


def is_in_disguise(backend: Backend, hot_standby: str | None) -> bool:
    """Return whether a server is not what it was taken for: the writer says it is a standby, or the reverse (S19)."""
    return hot_standby is not None and (hot_standby == "on") is backend.is_writer


class Welcome:
    """The words of one server after another, until there is one that the client gets."""

    def __init__(self, key_told: Callable[[BackendKey], BackendKey | None], short_secret: Callable[[], bytes]) -> None:
        """*key_told*, *short_secret*: see Conversation."""
        self._key_for_client = key_told
        self._short_secret = short_secret
        self._kept_back = bytearray()
        self.key: BackendKey | None = None
        """By which the server cancels."""
        self.key_told: BackendKey | None = None
        """What the client is told instead; None: that."""
        self.servers_minor = MINOR_KNOWN
        """Of the protocol, as a server has told the client."""

    def __len__(self) -> int:
        """Return how many bytes are kept back."""
        return len(self._kept_back)

    def keep(self, data: bytes) -> None:
        """Keep whole messages back."""
        self._kept_back += data

    def skim(self, server: bytearray, pos: int) -> int:
        """Keep back the run of parameters at *pos* that say nothing to us, as it stands, and return where it ends."""
        begin = pos
        while server[pos : pos + 1] == _PARAMETER_STATUS and not server.startswith(_IN_HOT_STANDBY, pos + HEADER_BYTES):
            length = int.from_bytes(server[pos + 1 : pos + HEADER_BYTES])
            if not LENGTH_BYTES <= length < LOGIN_BYTES_MAX or pos + 1 + length > len(server):
                break
            pos += 1 + length
        self._kept_back += server[begin:pos]
        return pos

    def keep_key(self, key: BackendKey, minor: int, *, was_told: bool = False) -> None:
        """Keep the server's *key* to ourselves, if the protocol of the client, version 3.*minor*, has room for one of ours.

        *was_told*: another client may know it, so this one is given a key of ours in any case.
        """
        is_long = min(minor, self.servers_minor) >= MINOR
        self.key, self.key_told = key, self._key_for_client(key) if is_long else None
        if was_told and not is_long:
            self.key_told = BackendKey(key.pid, self._short_secret())
        self._kept_back += backend_key_data(self.key_told or key)

    def keep_login(self, reported: bytes, key: BackendKey, minor: int) -> None:
        """Keep back what is said, behind our consent, of a login that another client has had before: see `keep_key`."""
        self.keep(reported)
        self.keep_key(key, minor, was_told=True)
        self.keep(_READY)

    def names(self) -> tuple[str, ...] | None:
        """Return which parameters are reported, in their order; None if there is something else that a client should know."""
        found: list[str] = []
        pos = 0
        while (said := read_message(self._kept_back, pos, bytes_max=LOGIN_BYTES_MAX)) is not None:
            if said.kind == Kind.PARAMETER_STATUS:
                found.append(said.payload.partition(b"\0")[0].decode("ascii", "replace"))
            elif said.kind not in _EVERYBODYS:
                return None
            pos = said.end
        return _shared_names(tuple(found))

    def keep_message(self, kind: int, payload: bytes) -> None:
        """Keep a message back."""
        self._kept_back += message(kind, payload)

    def take(self) -> bytes:
        """Return what was kept back, and keep it no longer."""
        told = bytes(self._kept_back)
        self._kept_back.clear()
        return told

    def begin_anew(self) -> None:
        """Another server is asked."""
        self._kept_back.clear()
        self.key = self.key_told = None
        self.servers_minor = MINOR_KNOWN
