"""What can happen in a conversation, and what it can command. Values; see conversation."""

from __future__ import annotations

from dataclasses import dataclass, field

from endpointd.refusal import Refusal
from endpointd.routing.table import Backend
from endpointd.wire.tls import Facts
from pgwire.messages import BackendKey
from pgwire.scram import Verifier

# Events


@dataclass(frozen=True, slots=True)
class ClientSent:
    """Bytes from the client."""

    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class ClientGone:
    """The client will say no more."""


@dataclass(frozen=True, slots=True)
class Encrypted:
    """TLS has been agreed on with the client."""

    facts: Facts


@dataclass(frozen=True, slots=True)
class NotEncrypted:
    """The client's TLS failed; it knows why, as far as TLS tells."""

    reason: str
    """For the log."""


@dataclass(frozen=True, slots=True)
class ProofWanted:
    """The client is to prove to us that it knows the password of its role."""

    verifier: Verifier
    nonce: str = field(repr=False)
    is_doomed: bool = False
    """The role has no secret that can be proven, or does not exist; the client must not be able to tell."""
    binding: bytes | None = field(default=None, repr=False)
    """The end point of our certificate, if the client's connection is encrypted."""


@dataclass(frozen=True, slots=True)
class LeftToServer:
    """The client proves who it is to a server, by whatever that asks for."""


@dataclass(frozen=True, slots=True)
class Vouched:
    """The client need not prove more: we log in for it, with a certificate of our own."""

    otherwise: Refusal
    """What it is told if a server does not take our word for it."""


@dataclass(frozen=True, slots=True)
class Refused:
    """The client may not come in."""

    refusal: Refusal


@dataclass(frozen=True, slots=True)
class Connected:
    """A connection to a server stands."""

    backend: Backend
    nonce: str = field(default="", repr=False)
    """For our own login there."""
    binding: bytes | None = field(default=None, repr=False)
    """The end point of the server's certificate, if the connection is encrypted."""
    is_encrypted: bool = False
    """It speaks TLS."""
    reported: bytes | None = field(default=None, repr=False)
    """It is logged in already, as the client would be: what the server reports of itself."""
    cancel_key: BackendKey | None = None
    """Of that login."""


@dataclass(frozen=True, slots=True)
class NotConnected:
    """No server was found in time."""

    refusal: Refusal


@dataclass(frozen=True, slots=True)
class ServerSent:
    """Bytes from the server."""

    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class ServerGone:
    """The server went away, or the endpoint does not stand for it any more."""

    refusal: Refusal | None = None


@dataclass(frozen=True, slots=True)
class PlaceTaken:
    """There is room for the client, as was asked: the session may begin."""


@dataclass(frozen=True, slots=True)
class Stopped:
    """Time is over, or the daemon ends."""

    refusal: Refusal


Event = (
    ClientSent
    | ClientGone
    | Encrypted
    | NotEncrypted
    | ProofWanted
    | LeftToServer
    | Vouched
    | Refused
    | Connected
    | NotConnected
    | ServerSent
    | ServerGone
    | PlaceTaken
    | Stopped
)

# Commands


@dataclass(frozen=True, slots=True)
class ToClient:
    """Send this to the client."""

    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class ToServer:
    """Send this to the server."""

    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class UpgradeTls:
    """Send the client an answer, if any, speak TLS with it from then on, and answer Encrypted or NotEncrypted."""

    answer: bytes
    received: bytes = field(default=b"", repr=False)
    """What it said already that belongs to TLS."""
    is_direct: bool = False
    """It did not ask first: then it must name the protocol (ALPN)."""


@dataclass(frozen=True, slots=True)
class Identify:
    """Say how the client is to prove who it is: answer ProofWanted, LeftToServer, Vouched or Refused."""


@dataclass(frozen=True, slots=True)
class ProofFailed:
    """The client did not convince: answer Refused with this when it has waited for as long as its address deserves."""

    refusal: Refusal


@dataclass(frozen=True, slots=True)
class Connect:
    """Find a server and answer Connected or NotConnected; the connection to a former one, if any, is to be closed."""

    failed: Backend | None = None
    """Who was tried last."""
    behind: Backend | None = None
    """Who was tried last and serves, but does not know the role's present password yet: it may in a moment."""
    is_room_made: bool = False
    """Who was tried last had no connection left; connections are being closed there that nobody had."""


@dataclass(frozen=True, slots=True)
class Cancel:
    """Take the request to where the key belongs, then close."""

    key: BackendKey
    packet: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Relay:
    """The session stands: move bytes from now on."""

    key: BackendKey | None
    server_rest: bytes
    """What the server said behind its ReadyForQuery."""
    client_rest: bytes = b""
    """What the client said that the server was not given yet."""
    key_told: BackendKey | None = None
    """What the client was told instead of *key*; None: that, since its protocol has no room for ours."""
    names: tuple[str, ...] | None = None
    """Of the parameters that the server reported to a login that another client may have after this one; None: none may."""
    settings: bytes | None = None
    """Of the role and the database, with which that login began; None with *names*."""


@dataclass(frozen=True, slots=True)
class Close:
    """Close both connections when what is to be sent is sent."""

    reason: str
    """For the log."""
    kind: str
    """For counting: a refusal's, or client_left, direct_tls, tls_failed, server_refused, cancel_request."""
    sqlstate: str | None = None
    """What the client was told."""
    server_is_full: bool = False
    """The server refused because it has no connection left, for anybody or for ordinary roles."""


Command = ToClient | ToServer | UpgradeTls | Identify | ProofFailed | Connect | Cancel | Relay | Close


def refuse(why: Refusal) -> list[Command]:
    """Return what ends a login whose client is to know why."""
    return [ToClient(why.encode()), Close(why.message, why.kind, why.sqlstate)]
