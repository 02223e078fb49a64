"""A client's first packets: encryption is agreed on or declined, then comes a cancel request, or what the client wants.

Pure, a part of the conversation; what follows is its.
"""

from __future__ import annotations

from typing import assert_never

from endpointd import refusal
from endpointd.session.commands import Cancel, Close, Command, Identify, ToClient, UpgradeTls, refuse
from endpointd.session.state import State
from endpointd.wire.tls import Facts
from pgwire import startup as packets


class Opening:
    """What a client says before anybody knows who it is."""

    def __init__(self, *, offers_tls: bool, requires_tls: bool, client_host: str) -> None:
        """*offers_tls*: who asks for TLS gets it; *requires_tls*: who does not is refused, in the name of *client_host*."""
        self.state = State.OPENING
        """OPENING and ENCRYPTING in turn; then IDENTIFYING, CANCELLING or CLOSED, and it is over."""
        self.startup: packets.StartupMessage | None = None
        """What the client wants, once it has said so."""
        self.packet = b""
        """That, as it came."""
        self.encrypted: Facts | None = None
        """What TLS has agreed on with the client."""
        self._offers_tls = offers_tls
        self._requires_tls = requires_tls
        self._client_host = client_host
        self._has_asked = False
        self._is_smuggled = False
        """Whether plaintext stood behind a request for TLS."""
        self._declined: set[type[packets.FirstPacket]] = set()

    def read(self, client: bytearray) -> list[Command]:
        """Return what the packets at the head of *client* call for, and take them away. Raises NotAPacketError, WireError."""
        commands: list[Command] = []
        while self.state is State.OPENING and (packet := self._take(client)) is not None:
            commands += self._heard(packet, client)
        return commands

    def is_encrypting(self) -> None:
        """TLS has been asked for, and is begun."""
        self._has_asked = True
        self.state = State.ENCRYPTING

    def encrypted_with(self, facts: Facts) -> list[Command]:
        """TLS has been agreed on."""
        assert self.state is State.ENCRYPTING
        self.encrypted = facts
        self.state = State.OPENING
        # Told inside TLS, where nobody between can take it away.
        return self._refuse(refusal.unencrypted_data("SSL")) if self._is_smuggled else []

    def _take(self, client: bytearray) -> bytes | None:
        if packets.is_direct_tls(client) and self.encrypted is None and not self._has_asked:
            size = len(client)
        else:
            size = packets.packet_size(client) or 0
            if not 0 < size <= len(client):
                return None
        packet = bytes(client[:size])
        del client[:size]
        return packet

    def _heard(self, packet: bytes, client: bytearray) -> list[Command]:
        first = packets.decode_first_packet(packet)
        match first:
            case packets.SslRequest() | packets.GssEncRequest():
                return self._asked_to_encrypt(first, client)
            case packets.DirectTls():
                if not self._offers_tls:
                    # Whoever begins so understands nothing but TLS: there is no way to tell it anything.
                    self.state = State.CLOSED
                    return [Close("direct TLS is not spoken here", "direct_tls")]
                self.state = State.ENCRYPTING
                return [UpgradeTls(b"", packet, is_direct=True)]
            case packets.CancelRequest(key):
                self.state = State.CANCELLING
                return [Cancel(key, packet)]
            case packets.StartupMessage():
                self.startup = first
                if self._requires_tls and self.encrypted is None:
                    return self._refuse(refusal.no_encryption(self._client_host, first.user, first.database))
                self.packet = packet
                self.state = State.IDENTIFYING
                return [Identify()]
            case _:
                assert_never(first)

    def _asked_to_encrypt(self, request: packets.SslRequest | packets.GssEncRequest, client: bytearray) -> list[Command]:
        """Answer a request for encryption. Raises VersionError for one that has its answer, as PostgreSQL does."""
        is_ssl = isinstance(request, packets.SslRequest)
        if type(request) in self._declined or self.encrypted is not None:
            raise packets.unsupported(packets.SSL_CODE if is_ssl else packets.GSSENC_CODE)
        self._has_asked = True
        is_smuggled = len(client) > 0
        if is_ssl and self._offers_tls:
            # A client may begin TLS without waiting for the answer, as PostgreSQL lets it since 17. All else is no TLS.
            eager = bytes(client) if packets.is_direct_tls(client) else b""
            self._is_smuggled = is_smuggled and not eager
            client.clear()
            self.state = State.ENCRYPTING
            return [UpgradeTls(packets.ACCEPTED, eager)]
        self._declined.add(type(request))
        declined: list[Command] = [ToClient(packets.REFUSED)]
        if is_smuggled:
            declined += self._refuse(refusal.unencrypted_data("SSL" if is_ssl else "GSSAPI encryption"))
        return declined

    def _refuse(self, why: refusal.Refusal) -> list[Command]:
        self.state = State.CLOSED
        return refuse(why)
