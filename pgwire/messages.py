"""The messages we write, and those we read beyond their header. The relay forwards all others unread.

Encoders return whole messages, decoders take a payload (what follows the five-byte header) and raise ProtocolError when
it does not have its shape.  Source: PostgreSQL documentation, "Message Formats" and "Error and Notice Message Fields".
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from pgwire.errors import ProtocolError

_length = struct.Struct(">I")
_int32 = struct.Struct(">i")


class Backend:
    """Type bytes of messages from the server."""

    AUTHENTICATION = ord("R")
    BACKEND_KEY_DATA = ord("K")
    COMMAND_COMPLETE = ord("C")
    COPY_BOTH_RESPONSE = ord("W")
    COPY_IN_RESPONSE = ord("G")
    COPY_OUT_RESPONSE = ord("H")
    DATA_ROW = ord("D")
    ERROR_RESPONSE = ord("E")
    NEGOTIATE_PROTOCOL_VERSION = ord("v")
    NOTICE_RESPONSE = ord("N")
    NOTIFICATION_RESPONSE = ord("A")
    PARAMETER_STATUS = ord("S")
    READY_FOR_QUERY = ord("Z")


class Frontend:
    """Type bytes of messages from the client, after the startup packet."""

    AUTHENTICATION_RESPONSE = ord("p")
    """PasswordMessage, SASLInitialResponse, SASLResponse and GSSResponse share it."""
    BIND = ord("B")
    CLOSE = ord("C")
    COPY_DATA = ord("d")
    COPY_DONE = ord("c")
    COPY_FAIL = ord("f")
    DESCRIBE = ord("D")
    EXECUTE = ord("E")
    FLUSH = ord("H")
    FUNCTION_CALL = ord("F")
    PARSE = ord("P")
    QUERY = ord("Q")
    SYNC = ord("S")
    TERMINATE = ord("X")


def message(kind: int, payload: bytes = b"") -> bytes:
    """Return a whole message."""
    return bytes((kind,)) + _length.pack(len(payload) + 4) + payload


@dataclass(frozen=True, slots=True)
class Report:
    """The content of an ErrorResponse or a NoticeResponse, by the field letters of the protocol."""

    fields: tuple[tuple[str, str], ...] = field(default=())

    def get(self, letter: str) -> str | None:
        """Return the first field called *letter*, or None."""
        return next((text for name, text in self.fields if name == letter), None)

    @property
    def severity(self) -> str:
        """Not translated: field V, or S from a server that does not send it."""
        return self.get("V") or self.get("S") or ""

    @property
    def sqlstate(self) -> str:
        """Field C."""
        return self.get("C") or ""

    @property
    def message(self) -> str:
        """Field M, in the server's language."""
        return self.get("M") or ""

    @property
    def routine(self) -> str | None:
        """Field R: the C function that reported; the same in every language."""
        return self.get("R")

    @property
    def is_fatal(self) -> bool:
        """Whether the server ends the session with it."""
        return self.severity in ("FATAL", "PANIC")


def make_report(
    severity: str,
    sqlstate: str,
    text: str,
    *,
    detail: str | None = None,
    hint: str | None = None,
    source: tuple[str, str] | None = None,
) -> Report:
    """Return a report with the fields every receiver expects. *source*: the file and the routine that say it."""
    fields = [("S", severity), ("V", severity), ("C", sqlstate), ("M", text)]
    if detail is not None:
        fields.append(("D", detail))
    if hint is not None:
        fields.append(("H", hint))
    if source is not None:
        fields += [("F", source[0]), ("L", "1"), ("R", source[1])]
    return Report(tuple(fields))


def encode_report(kind: int, report: Report) -> bytes:
    """Return an ErrorResponse or NoticeResponse, whichever *kind* says."""
    body = b"".join(letter.encode("ascii") + text.replace("\0", "").encode() + b"\0" for letter, text in report.fields)
    return message(kind, body + b"\0")


def decode_report(payload: bytes) -> Report:
    """Return the fields of an ErrorResponse or NoticeResponse. Texts that are not UTF-8 keep their bytes as escapes."""
    fields: list[tuple[str, str]] = []
    pos = 0
    while pos < len(payload) and payload[pos]:
        end = payload.find(b"\0", pos + 1)
        if end < 0:
            raise ProtocolError("an error field does not end")
        fields.append((chr(payload[pos]), payload[pos + 1 : end].decode("utf-8", "backslashreplace")))
        pos = end + 1
    if pos != len(payload) - 1:
        raise ProtocolError("invalid end of an error message")
    return Report(tuple(fields))


def error_response(severity: str, sqlstate: str, text: str, *, detail: str | None = None, hint: str | None = None) -> bytes:
    """Return an ErrorResponse."""
    return encode_report(Backend.ERROR_RESPONSE, make_report(severity, sqlstate, text, detail=detail, hint=hint))


# Authentication


class AuthenticationKind:
    """The number an Authentication message begins with."""

    OK = 0
    CLEARTEXT_PASSWORD = 3
    MD5_PASSWORD = 5
    GSS = 7
    GSS_CONTINUE = 8
    SSPI = 9
    SASL = 10
    SASL_CONTINUE = 11
    SASL_FINAL = 12


@dataclass(frozen=True, slots=True)
class Authentication:
    """What the server asks for, or that it is content."""

    kind: int
    data: bytes = b""
    """What follows the number: mechanisms, challenge, outcome or salt."""

    @property
    def mechanisms(self) -> tuple[str, ...]:
        """The SASL mechanisms offered; only of kind SASL."""
        return tuple(name.decode("ascii", "replace") for name in self.data.split(b"\0") if name)


def decode_authentication(payload: bytes) -> Authentication:
    """Return what an Authentication message says."""
    if len(payload) < 4:
        raise ProtocolError("an authentication message is too short")
    return Authentication(_int32.unpack_from(payload)[0], payload[4:])


def encode_authentication(authentication: Authentication) -> bytes:
    """Return an Authentication message."""
    return message(Backend.AUTHENTICATION, _int32.pack(authentication.kind) + authentication.data)


def sasl_offer(*mechanisms: str) -> bytes:
    """Return AuthenticationSASL."""
    names = b"".join(name.encode("ascii") + b"\0" for name in mechanisms)
    return encode_authentication(Authentication(AuthenticationKind.SASL, names + b"\0"))


def without_binding(payload: bytes) -> bytes:
    """Return the payload of an AuthenticationSASL without the mechanisms that are bound to a TLS connection."""
    names = [name for name in payload[4:].split(b"\0") if name and not name.endswith(b"-PLUS")]
    return payload[:4] + b"".join(name + b"\0" for name in names) + b"\0"


def sasl_initial_response(mechanism: str, response: bytes) -> bytes:
    """Return SASLInitialResponse."""
    body = mechanism.encode("ascii") + b"\0" + _length.pack(len(response)) + response
    return message(Frontend.AUTHENTICATION_RESPONSE, body)


def decode_sasl_initial_response(payload: bytes) -> tuple[str, bytes]:
    """Return the mechanism and the client's first message; an absent one is empty."""
    name, zero, rest = payload.partition(b"\0")
    if not zero or len(rest) < 4:
        raise ProtocolError("malformed SASLInitialResponse")
    size = _int32.unpack_from(rest)[0]
    response = rest[4:]
    if size != len(response) and not (size == -1 and not response):
        raise ProtocolError("malformed SASLInitialResponse")
    return name.decode("ascii", "replace"), response


def sasl_response(response: bytes) -> bytes:
    """Return SASLResponse."""
    return message(Frontend.AUTHENTICATION_RESPONSE, response)


# What a server tells of itself


def parameter_status(name: str, value: str) -> bytes:
    """Return a ParameterStatus."""
    return message(Backend.PARAMETER_STATUS, name.encode() + b"\0" + value.encode() + b"\0")


def decode_parameter_status(payload: bytes) -> tuple[str, str]:
    """Return name and value of a reported parameter."""
    parts = payload.split(b"\0")
    if len(parts) != 3 or parts[2]:
        raise ProtocolError("malformed ParameterStatus")
    return parts[0].decode("utf-8", "backslashreplace"), parts[1].decode("utf-8", "backslashreplace")


KEY_BYTES_MIN = 4
KEY_BYTES_MAX = 256


@dataclass(frozen=True, slots=True)
class BackendKey:
    """What a client must know to cancel: four bytes of secret in protocol 3.0, up to 256 in 3.2."""

    pid: int
    secret: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if not KEY_BYTES_MIN <= len(self.secret) <= KEY_BYTES_MAX:
            raise ProtocolError(f"a cancel key of {len(self.secret)} bytes is not between 4 and 256")


def backend_key_data(key: BackendKey) -> bytes:
    """Return BackendKeyData."""
    return message(Backend.BACKEND_KEY_DATA, _int32.pack(key.pid) + key.secret)


def decode_backend_key(payload: bytes) -> BackendKey:
    """Return the key of a BackendKeyData."""
    if len(payload) < 4:
        raise ProtocolError("malformed BackendKeyData")
    return BackendKey(_int32.unpack_from(payload)[0], payload[4:])


def ready_for_query(status: str) -> bytes:
    """Return ReadyForQuery with transaction status I, T or E."""
    return message(Backend.READY_FOR_QUERY, status.encode("ascii"))


def _said(name: str) -> bytes:
    """Return a client's own word, which need not have been UTF-8, as it was said."""
    return name.encode("utf-8", "surrogateescape") + b"\0"


def negotiate_protocol_version(minor: int, unknown_options: tuple[str, ...] = ()) -> bytes:
    """Return NegotiateProtocolVersion: the newest version 3 minor spoken here, and the options nobody here knows."""
    body = _int32.pack((3 << 16) | minor) + _length.pack(len(unknown_options))
    return message(Backend.NEGOTIATE_PROTOCOL_VERSION, body + b"".join(_said(name) for name in unknown_options))


def decode_negotiation(payload: bytes) -> tuple[int, tuple[str, ...]]:
    """Return the protocol version the server offers, as the 32-bit number of the protocol, and the options it does not know."""
    if len(payload) < 8:
        raise ProtocolError("malformed NegotiateProtocolVersion")
    version, count = struct.unpack_from(">iI", payload)
    names = payload[8:].split(b"\0")
    if names.pop() or len(names) != count:
        raise ProtocolError("malformed NegotiateProtocolVersion")
    return version, tuple(name.decode("utf-8", "backslashreplace") for name in names)


# What a client says


def query(sql: str) -> bytes:
    """Return a simple Query."""
    return message(Frontend.QUERY, sql.encode() + b"\0")


TERMINATE = message(Frontend.TERMINATE)
SYNC = message(Frontend.SYNC)
