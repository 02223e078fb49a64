"""TLS without a network: bytes of the network in, plaintext out, and the reverse. Pure but for OpenSSL's randomness.

The event loop's own TLS transport is not used: it keeps 256 KiB for each connection, says nothing of a peer that was cut off,
and cannot end one direction alone (decision 30).  A channel costs what OpenSSL's connection costs: both BIOs are fed in small
pieces and emptied at once, because a memory BIO never gives back what it once grew to, and OpenSSL itself releases its buffers
whenever they are empty.

Errors are values.  A peer that breaks TLS, does not convince or closes in the middle leaves a Failure, whose text fits a log;
what is still to be told to the peer (an alert) is in what the same call returns.  A peer that ends by close_notify has `ended`;
one whose network ends without it was cut off, by whoever could, and its owner must take that for a broken connection.
"""

from __future__ import annotations

import contextlib
import re
import ssl
from dataclasses import dataclass, field
from enum import StrEnum
from typing import cast

from endpointd.wire.clienthello import read_client_hello
from pgwire.x509 import read_certificate

ALPN = "postgresql"
"""The protocol's name in TLS. A client that begins with TLS at once has to name it, so that it cannot be meant for others."""

NETWORK_BYTES_MAX = 1 << 16
"""What a channel takes at once."""

FEED_BYTES = 1 << 12
"""What a BIO gets at once. A connection that was ever busy keeps 5 KiB for it; with 16 KiB it would be 21, and 100 MB would
take 0.06 s less."""

SEND_BYTES = 1 << 12
"""Plaintext of one record at most, for the same reason."""

_RECORD_BYTES_MAX = 1 << 14

HELLO_BYTES_MAX = 1 << 14
"""Of a client's first message, which is kept until it is whole. Real ones have 0.3 to 2 KiB."""

_NO_APPLICATION_PROTOCOL = b"\x15\x03\x03\x00\x02\x02\x78"
"""A fatal alert before there are keys (RFC 7301, 3.2)."""

_PLACE = re.compile(r"^\[[^]]*\] | \(_ssl\.c:\d+\)$")

_NOT_NAMED = "direct TLS without ALPN protocol negotiation"

_plain = memoryview(bytearray(NETWORK_BYTES_MAX + 2 * _RECORD_BYTES_MAX))
# Shared by all channels of the process, which run on one loop: what one call returns is consumed before the next.


class Role(StrEnum):
    """Who we are."""

    SERVER = "server"
    CLIENT = "client"


@dataclass(frozen=True, slots=True)
class Facts:
    """What a handshake agreed on."""

    version: str
    """As OpenSSL names it: TLSv1.2, TLSv1.3."""
    cipher: str
    sni: str | None
    """The name that a client asked for."""
    alpn: str | None
    certificate: bytes | None = field(repr=False)
    """The peer's, in DER, verified if the context verifies."""
    binding: bytes | None = field(repr=False)
    """The server's tls-server-end-point, ours or the peer's (RFC 5929)."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why there is no TLS, or none any longer."""

    reason: str


def server_context() -> ssl.SSLContext:
    """Return what every server context of ours begins with; its certificate is to be loaded."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _prepare(context)
    # Sessions are not resumed, as in PostgreSQL: that would save little in connections that live long, and cost secrecy.
    context.options |= ssl.OP_NO_TICKET
    context.num_tickets = 0
    return context


def client_context() -> ssl.SSLContext:
    """Return what every client context of ours begins with: it verifies the chain and the name."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    _prepare(context)
    return context


def _prepare(context: ssl.SSLContext) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    context.set_alpn_protocols([ALPN])


class Channel:
    """One TLS connection."""

    __slots__ = (
        "_binding",
        "_connection",
        "_hello",
        "_in",
        "_is_server",
        "_must_name_protocol",
        "_out",
        "_said_goodbye",
        "_server_name",
        "ended",
        "facts",
        "failure",
    )

    def __init__(
        self,
        context: ssl.SSLContext,
        role: Role,
        *,
        server_name: str | None = None,
        binding: bytes | None = None,
        must_name_protocol: bool = False,
    ) -> None:
        """*server_name*: whom a client means; *binding*: a server's own.

        *must_name_protocol*: a client that does not offer ours by ALPN is refused.
        """
        self._in = ssl.MemoryBIO()
        self._out = ssl.MemoryBIO()
        self._connection = context.wrap_bio(self._in, self._out, server_side=role is Role.SERVER, server_hostname=server_name)
        self._hello: bytearray | None = bytearray() if role is Role.SERVER else None
        """The client's first message while it is not whole: OpenSSL gets it when we have looked at it."""
        self._server_name = server_name
        self._is_server = role is Role.SERVER
        self._binding = binding
        self._must_name_protocol = must_name_protocol
        self._said_goodbye = False
        self.facts: Facts | None = None
        """Known once the handshake is over."""
        self.failure: Failure | None = None
        """Why nothing will be understood any more."""
        self.ended = False
        """The peer said that it will send no more."""

    def begin(self) -> bytes:
        """Return a client's first words; a server has none."""
        self._shake_hands()
        return self._out.read()

    def received(self, data: memoryview | bytes) -> tuple[memoryview, bytes]:
        """Take *data* from the network, at most NETWORK_BYTES_MAX.

        Returns the plaintext, valid until any channel is called again, and what is to be sent to the peer because of it.
        """
        assert len(data) <= NETWORK_BYTES_MAX
        if self.failure is not None:
            return _plain[:0], b""
        view, refused = (memoryview(data), b"") if self._hello is None else self._look_at_hello(data)
        size = 0
        out = [refused]
        for pos in range(0, len(view), FEED_BYTES):
            if self.ended or self.failure is not None:
                break
            self._in.write(view[pos : pos + FEED_BYTES])
            if self.facts is None:
                self._shake_hands()
            if self.facts is not None:
                size = self._decrypt(size)
            out.append(self._out.read())
        return _plain[:size], b"".join(out)

    def send(self, data: bytes | memoryview) -> bytes:
        """Return *data* for the network: nothing before the handshake is over, or after a goodbye or a failure."""
        if self.facts is None or self.failure is not None or self._said_goodbye:
            return b""
        view = memoryview(data)
        out: list[bytes] = []
        try:
            for pos in range(0, len(view), SEND_BYTES):
                self._connection.write(cast("bytes", view[pos : pos + SEND_BYTES]))
                out.append(self._out.read())
        except ssl.SSLError as error:
            self._fail(error)
        return b"".join(out)

    def say_goodbye(self) -> bytes:
        """Return what tells the peer that no more will come (close_notify); what it says is heard on."""
        if self.facts is None or self._said_goodbye:
            return b""
        self._said_goodbye = True
        with contextlib.suppress(ssl.SSLError):  # it waits for the peer's, which may have much to say before
            self._connection.unwrap()
        return self._out.read()

    @property
    def can_be_let_go(self) -> bool:
        """Whether nothing is in between: all that came is plaintext already or part of a record, and nothing is to be said."""
        is_speaking = self.facts is not None and self.failure is None and not self.ended and not self._said_goodbye
        return is_speaking and not self._in.pending and not self._out.pending

    @property
    def connection(self) -> ssl.SSLObject:
        """OpenSSL's connection, for somebody who goes on with it; the channel is of no use then."""
        return self._connection

    def cut_off(self) -> None:
        """The network ended: a failure, unless the peer ended by itself before."""
        if not self.ended and self.failure is None:
            when = "the TLS handshake" if self.facts is None else "a TLS session, without close_notify"
            self.failure = Failure(f"the connection was cut off in {when}")

    def _shake_hands(self) -> None:
        try:
            self._connection.do_handshake()
        except ssl.SSLWantReadError:
            return
        except ssl.SSLError as error:
            self._fail(error)
            return
        connection = self._connection
        alpn = connection.selected_alpn_protocol()
        if self._must_name_protocol and alpn != ALPN:
            self.failure = Failure(_NOT_NAMED)
            return
        cipher, certificate = connection.cipher(), connection.getpeercert(binary_form=True)
        self.facts = Facts(
            version=connection.version() or "",
            cipher=cipher[0] if cipher is not None else "",
            sni=self._server_name,
            alpn=alpn,
            certificate=certificate,
            binding=self._binding if self._is_server or certificate is None else read_certificate(certificate).binding,
        )

    def _look_at_hello(self, data: memoryview | bytes) -> tuple[memoryview, bytes]:
        """Return what OpenSSL may have now; and an alert, if the client speaks no protocol of ours."""
        assert self._hello is not None
        self._hello += data
        said = bytes(self._hello)
        try:
            hello = read_client_hello(said)
        except ValueError:  # OpenSSL will say what is wrong with it
            self._hello = None
            return memoryview(said), b""
        if hello is None:
            if len(said) > HELLO_BYTES_MAX:
                self.failure = Failure("the first message is too long")
            return memoryview(b""), b""
        self._hello = None
        self._server_name = hello.server_name
        if ALPN.encode() not in hello.protocols and (hello.protocols or self._must_name_protocol):
            self.failure = Failure("no application protocol in common" if hello.protocols else _NOT_NAMED)
            return memoryview(b""), _NO_APPLICATION_PROTOCOL
        return memoryview(said), b""

    def _decrypt(self, size: int) -> int:
        """Put what can be read behind the *size* bytes there are; return how many there are then."""
        try:
            while True:
                count = self._connection.read(_RECORD_BYTES_MAX, cast("bytearray", _plain[size:]))
                if not count:
                    self.ended = True
                    return size
                size += cast("int", count)
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            self.ended = True
        except ssl.SSLError as error:
            self._fail(error)
        return size

    def _fail(self, error: ssl.SSLError) -> None:
        self.failure = Failure(_told(error))


def _told(error: ssl.SSLError) -> str:
    """Return OpenSSL's reason in words: neither its codes nor where in its sources it was found."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate verify failed: {error.verify_message}"
    if error.reason:
        return error.reason.lower().replace("_", " ")
    return _PLACE.sub("", str(error.args[-1])) or "TLS failed"  # a reason that this Python has no name for
