"""What is attacked and how, as data: listeners with the bytes of their protocols, and the ways to misuse them.

An attack is a crowd of connections that say something and then behave badly.  Every listener is attacked in every way; what
a way means for a protocol is a line here.  Knows no cluster and opens nothing.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import StrEnum

from pgwire import startup

CONNECTIONS = 5000
PIPELINES = 64
"""Connections that ask as fast as they are answered; each of them costs the attacker as much as the attacked."""


class Protocol(StrEnum):
    """What a listener speaks."""

    HTTP = "http"
    DNS = "dns"
    DNS_UDP = "dns-udp"
    POSTGRESQL = "postgresql"


class Way(StrEnum):
    """How the crowd behaves."""

    IDLE = "idle"
    """It says nothing."""
    HALF = "half-open"
    """It begins to say something and never ends."""
    PIPELINED = "pipelined"
    """It asks on and on without waiting for an answer, or begins logins and does not finish them."""
    MALFORMED = "malformed"
    """It says what is not the protocol, and comes again."""


@dataclass(frozen=True, slots=True)
class Listener:
    """One kind of port of ours; *offsets* are its ports, from the cluster's base port on."""

    name: str
    protocol: Protocol
    offsets: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Attack:
    """What each connection of a crowd does."""

    connections: int
    greeting: bytes = b""
    """Said at once."""
    again: bytes = b""
    """Said over and over."""
    is_udp: bool = False
    new_per_s: int = 1000
    """How many are opened in a second at most, to replace those that were sent away: the machine is the victim's too."""


LISTENERS = (
    Listener("manager", Protocol.HTTP, (80,)),
    Listener("noded", Protocol.HTTP, (60, 61, 62)),
    Listener("proxy admin", Protocol.HTTP, (90,)),
    Listener("dns tcp", Protocol.DNS, (53,)),
    Listener("dns udp", Protocol.DNS_UDP, (53,)),
    Listener("writer", Protocol.POSTGRESQL, (32,)),
    Listener("reader", Protocol.POSTGRESQL, (33,)),
)

_ASK = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
_NAME = b"".join(
    bytes((len(label),)) + label for label in (b"_postgresql", b"_tcp", b"writer", b"local", b"endpointd", b"internal")
)
_QUESTION = struct.pack("!HHHHHH", 7, 0x0100, 1, 0, 0, 0) + _NAME + b"\0" + struct.pack("!HH", 33, 1)
_FRAMED = struct.pack("!H", len(_QUESTION)) + _QUESTION
_HELLO = startup.encode_startup(startup.make_startup("postgres", "postgres"))

_SAYS: dict[tuple[Protocol, Way], Attack] = {
    (Protocol.HTTP, Way.HALF): Attack(
        connections=CONNECTIONS, greeting=b"GET / HTTP/1.1\r\nX-Long: " + b"x" * 8000 + b"\r\nY: "
    ),
    (Protocol.HTTP, Way.PIPELINED): Attack(connections=PIPELINES, again=_ASK * 50),
    (Protocol.HTTP, Way.MALFORMED): Attack(connections=CONNECTIONS, greeting=b"\x16\x03\x01\x02\0rubbish\r\n\r\n"),
    (Protocol.DNS, Way.HALF): Attack(connections=CONNECTIONS, greeting=b"\xff\xff" + b"x" * 8000),
    (Protocol.DNS, Way.PIPELINED): Attack(connections=PIPELINES, again=_FRAMED * 200),
    (Protocol.DNS, Way.MALFORMED): Attack(connections=CONNECTIONS, greeting=b"\0\3abc"),
    (Protocol.DNS_UDP, Way.PIPELINED): Attack(connections=PIPELINES, again=_QUESTION, is_udp=True),
    (Protocol.DNS_UDP, Way.MALFORMED): Attack(connections=PIPELINES, again=b"\xff" * 400, is_udp=True),
    (Protocol.POSTGRESQL, Way.HALF): Attack(connections=CONNECTIONS, greeting=b"\0\0\0"),
    (Protocol.POSTGRESQL, Way.PIPELINED): Attack(connections=CONNECTIONS, greeting=_HELLO, new_per_s=100),
    (Protocol.POSTGRESQL, Way.MALFORMED): Attack(connections=CONNECTIONS, greeting=b"GET / HTTP/1.1\r\n\r\n"),
}


def attack_on(listener: Listener, way: Way) -> Attack | None:
    """Return how *listener* is attacked in that *way*; None where it has no meaning: UDP has no connections."""
    if way is Way.IDLE and listener.protocol is not Protocol.DNS_UDP:
        return Attack(connections=CONNECTIONS)
    return _SAYS.get((listener.protocol, way))
