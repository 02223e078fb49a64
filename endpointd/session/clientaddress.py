"""The client's address in the application_name that its server is given, for an endpoint with ``client_address``. Pure.

A server knows the proxy's address alone.  With this, pg_stat_activity and %a in its log show ``psql [192.0.2.7]``.  The client
reads that name back, since what a server reports is never changed on its way.  Left alone are sessions that ask for
replication, whose name means a standby or a subscription (synchronous_standby_names), and packets that would become too long.
"""

from __future__ import annotations

import ipaddress

from endpointd.session.startupsettings import settings_asked_for
from pgwire.startup import PACKET_BYTES_MAX, StartupMessage, encode_startup

NAME_BYTES_MAX = 63
"""PostgreSQL's NAMEDATALEN, without the zero at its end: application_name is cut to it."""

_NAME = "application_name"
_PRINTABLE = range(0x20, 0x7F)
_ESCAPED_BYTES = 4
"""PostgreSQL writes any other byte as ``\\x7f`` since 16, and as ``?`` before; then it cuts (pg_clean_ascii)."""


def with_address(packet: bytes, message: StartupMessage, host: str) -> bytes:
    """Return the startup *packet*, which holds *message*, as the server of a client at *host* is given it."""
    if message.get("replication") is not None or not host:
        return packet
    # The last one counts, and one of the packet's own counts more than one in its options.
    asked = [value for name, value in settings_asked_for(message) if name == _NAME]
    own = [value for name, value in message.parameters if name.lower() == _NAME]
    name = (own or asked or [""])[-1]
    others = tuple((key, value) for key, value in message.parameters if key.lower() != _NAME)
    told = encode_startup(StartupMessage(message.version, (*others, (_NAME, marked(name, host)))))
    return told if len(told) <= PACKET_BYTES_MAX else packet


def marked(name: str, host: str) -> str:
    """Return *name* with the address *host* behind it; of the two the name is cut if they are too long."""
    mark = f"[{_plain(host)}]"
    if not name:
        return mark
    mark = f" {mark}"
    if name.endswith(mark):
        return name  # a client that gives the name it has read back
    room = NAME_BYTES_MAX - len(mark)
    kept = 0
    for character in name:
        room -= _size(character)
        if room < 0:
            break
        kept += 1
    return name[:kept] + mark


def _plain(host: str) -> str:
    """Return an address as people write it: without a zone, and IPv4 as such."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)


def _size(character: str) -> int:
    """Return how many bytes of the name *character* takes at most at a server."""
    data = character.encode("utf-8", "surrogateescape")
    return sum(1 if byte in _PRINTABLE else _ESCAPED_BYTES for byte in data)
