"""SCRAM-SHA-256 and SCRAM-SHA-256-PLUS, both roles, as state machines that turn one message into the next.

They know no sockets and no randomness: nonces are arguments.  A client is made of a password or of the keys that follow from
it; a server of a verifier, which is what PostgreSQL stores in pg_authid and from which no password follows.  A server that
was convinced has the client's key, so it can be a client of any other server that has the same verifier.

PLUS binds the exchange to the server's certificate (tls-server-end-point, RFC 5929), so that nobody in between can pass it
on.  Source: RFC 5802, RFC 7677; PostgreSQL's fe-auth-scram.c and auth-scram.c for what it does with names (ignored, the
startup packet's counts), with passwords that SASLprep refuses (used as they are), and for who refuses which flag.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
import stringprep
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum

from pgwire.errors import AuthenticationError, OtherSecret, ScramViolation
from pgwire.sqlstate import SqlState

MECHANISM = "SCRAM-SHA-256"
MECHANISM_PLUS = "SCRAM-SHA-256-PLUS"

ITERATIONS_MAX = 10_000_000
"""A server may ask for this many rounds of hashing and no more: about five seconds of a core, PostgreSQL's default is 4096."""

_BINDING_TYPE = b"tls-server-end-point"
_NONCE = re.compile(r"[\x21-\x2b\x2d-\x7e]+")


@dataclass(frozen=True, slots=True)
class Keys:
    """The two keys a password yields with one salt and iteration count."""

    client_key: bytes = field(repr=False)
    server_key: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Verifier:
    """What a server keeps: enough to check a proof, not enough to make one."""

    iterations: int
    salt: bytes
    stored_key: bytes = field(repr=False)
    server_key: bytes = field(repr=False)


def derive_keys(password: str, salt: bytes, iterations: int) -> Keys:
    """Return the keys of *password*."""
    salted = hashlib.pbkdf2_hmac("sha256", prepare_password(password), salt, iterations)
    return Keys(_hmac(salted, b"Client Key"), _hmac(salted, b"Server Key"))


def make_verifier(password: str, salt: bytes, iterations: int = 4096) -> Verifier:
    """Return the verifier of *password*."""
    keys = derive_keys(password, salt, iterations)
    return Verifier(iterations, salt, _sha256(keys.client_key), keys.server_key)


def format_verifier(verifier: Verifier) -> str:
    """Return *verifier* as PostgreSQL stores it, and accepts it in CREATE ROLE … PASSWORD."""
    return (
        f"{MECHANISM}${verifier.iterations}:{_encode(verifier.salt)}"
        f"${_encode(verifier.stored_key)}:{_encode(verifier.server_key)}"
    )


def parse_verifier(text: str) -> Verifier:
    """Return the verifier PostgreSQL wrote as *text*. Raises ValueError."""
    match = re.fullmatch(r"SCRAM-SHA-256\$([0-9]{1,9}):([^$:]+)\$([^$:]+):([^$:]+)", text)
    if match is None:
        raise ValueError("not a SCRAM-SHA-256 verifier")
    try:
        verifier = Verifier(int(match[1]), _decode(match[2]), _decode(match[3]), _decode(match[4]))
    except AuthenticationError as error:
        raise ValueError("not a SCRAM-SHA-256 verifier") from error
    if verifier.iterations < 1 or len(verifier.stored_key) != 32 or len(verifier.server_key) != 32:
        raise ValueError("not a SCRAM-SHA-256 verifier")
    return verifier


KeySource = Callable[[bytes, int], Keys]
"""Returns the keys for a salt and an iteration count."""


def keys_of_password(password: str) -> KeySource:
    """Return what derives the keys of *password*, which takes some milliseconds."""
    return lambda salt, iterations: derive_keys(password, salt, iterations)


def keys_for(verifier: Verifier, client_key: bytes) -> KeySource:
    """Return what gives *client_key* to a server that has *verifier*, and raises OtherSecret for any other."""

    def find(salt: bytes, iterations: int) -> Keys:
        if (salt, iterations) != (verifier.salt, verifier.iterations):
            raise OtherSecret("the server has another verifier of the role")
        return Keys(client_key, verifier.server_key)

    return find


class Binding(StrEnum):
    """What a client says about channel binding: the first letter of its first message."""

    NONE = "n"
    """It cannot, or does not want to."""
    NOT_OFFERED = "y"
    """It could, and the server did not offer it."""
    USED = "p"


class ScramClient:
    """Proves that it knows a password and checks that the server does too.

    Send `first`, then what `respond` returns for the server's challenge, then give the outcome to `finish`.
    """

    def __init__(self, keys: KeySource, nonce: str, *, binding: bytes | None = None, could_bind: bool = False) -> None:
        """*nonce*: at least 18 random bytes in base64, never used before.

        *binding*: the end point of the server's certificate, for PLUS.  *could_bind*: without one, whether that is only
        because the server did not offer PLUS.
        """
        self._keys = keys
        self._nonce = _checked_nonce(nonce)
        self._first_bare = f"n=,r={nonce}"
        flag = Binding.USED if binding is not None else Binding.NOT_OFFERED if could_bind else Binding.NONE
        self._header = _gs2_header(flag.encode())
        self._bound = _encode(self._header + (binding or b""))
        self._signature: bytes | None = None

    @property
    def first(self) -> bytes:
        """The client's first message, for SASLInitialResponse."""
        return self._header + self._first_bare.encode()

    def respond(self, challenge: bytes) -> bytes:
        """Return the client's final message, for SASLResponse. Raises AuthenticationError."""
        attributes = _attributes(challenge, "r", "s", "i")
        nonce, salt, count = attributes["r"], _decode(attributes["s"]), attributes["i"]
        if not nonce.startswith(self._nonce) or nonce == self._nonce:
            raise ScramViolation("invalid SCRAM response", detail="Nonce does not match.")
        if not re.fullmatch("[0-9]{1,9}", count) or not 1 <= int(count) <= ITERATIONS_MAX or not salt:
            raise _malformed("Invalid iteration count or salt.")
        without_proof = f"c={self._bound},r={nonce}"
        exchange = b",".join((self._first_bare.encode(), challenge, without_proof.encode()))
        keys = self._keys(salt, int(count))
        self._signature = _hmac(keys.server_key, exchange)
        proof = _xor(keys.client_key, _hmac(_sha256(keys.client_key), exchange))
        return f"{without_proof},p={_encode(proof)}".encode()

    def finish(self, outcome: bytes) -> None:
        """Check the server's final message. Raises AuthenticationError if the server does not know the password either."""
        if self._signature is None:
            raise ScramViolation("SCRAM message out of order")
        if outcome.startswith(b"e="):
            raise AuthenticationError(f"error received from server in SCRAM exchange: {_text(outcome[2:])}")
        signature = _decode(_attributes(outcome, "v")["v"])
        if not hmac.compare_digest(signature, self._signature):
            raise AuthenticationError("incorrect server signature")


class ScramServer:
    """Checks a client's proof against a verifier, and proves in turn that it has the verifier.

    Give it the client's first message with `challenge`, the final one with `verify`; send what they return.
    """

    def __init__(self, verifier: Verifier, nonce: str, *, binding: bytes | None = None, is_plus: bool = False) -> None:
        """*nonce*: at least 18 random bytes in base64, never used before; the client's is put in front of it.

        *binding*: the end point of our certificate, if PLUS was offered; *is_plus*: the client has chosen it.
        """
        self._verifier = verifier
        self._nonce = _checked_nonce(nonce)
        self._binding = binding
        self._is_plus = is_plus
        self._exchange = b""
        self._full_nonce = ""
        self._bound = b""

    def challenge(self, first: bytes) -> bytes:
        """Return the server's first message, for AuthenticationSASLContinue. Raises AuthenticationError."""
        flag, comma, rest = first.partition(b",")
        authzid, comma2, bare = rest.partition(b",")
        if not comma or not comma2:
            raise _malformed("Comma expected.")
        header = self._checked_header(flag)
        if authzid:
            raise ScramViolation(
                "client uses authorization identity, but it is not supported", sqlstate=SqlState.FEATURE_NOT_SUPPORTED
            )
        if bare.startswith(b"m="):
            raise ScramViolation("client requires an unsupported SCRAM extension", sqlstate=SqlState.FEATURE_NOT_SUPPORTED)
        nonce = _checked_nonce(_attributes(bare, "n", "r")["r"])
        self._bound = header + (self._binding or b"") if self._is_plus else header
        self._full_nonce = nonce + self._nonce
        message = f"r={self._full_nonce},s={_encode(self._verifier.salt)},i={self._verifier.iterations}".encode()
        self._exchange = bare + b"," + message
        return message

    def _checked_header(self, flag: bytes) -> bytes:
        match flag[:1]:
            case b"n" | b"y" if len(flag) > 1:
                raise _malformed("Comma expected.")
            case b"n" | b"y" if self._is_plus:
                raise _malformed(
                    "The client selected SCRAM-SHA-256-PLUS, but the SCRAM message does not include channel binding data."
                )
            case b"y" if self._binding is not None:
                raise ScramViolation(
                    "SCRAM channel binding negotiation error",
                    detail="The client supports SCRAM channel binding but thinks the server does not. "
                    "However, this server does support channel binding.",
                    sqlstate=SqlState.INVALID_AUTHORIZATION,
                )
            case b"p" if not self._is_plus:
                raise _malformed(
                    "The client selected SCRAM-SHA-256 without channel binding, "
                    "but the SCRAM message includes channel binding data."
                )
            case b"p" if flag != b"p=" + _BINDING_TYPE:
                raise ScramViolation(f'unsupported SCRAM channel-binding type "{_text(flag[2:])}"')
            case b"n" | b"y" | b"p":
                return flag + b",,"
            case _:
                raise _malformed("Unexpected channel-binding flag.")

    def verify(self, final: bytes) -> tuple[bytes, bytes]:
        """Return the server's final message, for AuthenticationSASLFinal, and the client key the proof gave away.

        Raises AuthenticationError if the proof is not one.
        """
        attributes = _attributes(final, "c", "r", "p")
        if _decode(attributes["c"]) != self._bound:
            if self._is_plus:
                raise ScramViolation("SCRAM channel binding check failed", sqlstate=SqlState.INVALID_AUTHORIZATION)
            raise ScramViolation("unexpected SCRAM channel-binding attribute in client-final-message")
        if not self._full_nonce or attributes["r"] != self._full_nonce:
            raise ScramViolation("invalid SCRAM response", detail="Nonce does not match.")
        exchange = self._exchange + b"," + final[: final.rindex(b",p=")]
        proof = _decode(attributes["p"])
        if len(proof) != 32:
            raise _malformed("Malformed proof in client-final-message.")
        client_key = _xor(proof, _hmac(self._verifier.stored_key, exchange))
        if not hmac.compare_digest(_sha256(client_key), self._verifier.stored_key):
            raise AuthenticationError("password authentication failed")
        return b"v=" + _encode(_hmac(self._verifier.server_key, exchange)).encode(), client_key


def prepare_password(password: str) -> bytes:
    """Return *password* as it is hashed: prepared by SASLprep (RFC 4013), or unchanged where SASLprep refuses it."""
    mapped = "".join(" " if stringprep.in_table_c12(char) else char for char in password if not stringprep.in_table_b1(char))
    prepared = unicodedata.ucd_3_2_0.normalize("NFKC", mapped)
    if not prepared or any(_is_prohibited(char) for char in prepared) or _is_bidi_broken(prepared):
        return password.encode("utf-8", "surrogateescape")
    return prepared.encode()


def _is_prohibited(char: str) -> bool:
    return (
        stringprep.in_table_c12(char)
        or stringprep.in_table_c21_c22(char)
        or stringprep.in_table_c3(char)
        or stringprep.in_table_c4(char)
        or stringprep.in_table_c5(char)
        or stringprep.in_table_c6(char)
        or stringprep.in_table_c7(char)
        or stringprep.in_table_c8(char)
        or stringprep.in_table_c9(char)
        or stringprep.in_table_a1(char)
    )


def _is_bidi_broken(text: str) -> bool:
    if not any(stringprep.in_table_d1(char) for char in text):
        return False
    ends_well = stringprep.in_table_d1(text[0]) and stringprep.in_table_d1(text[-1])
    return not ends_well or any(stringprep.in_table_d2(char) for char in text)


def _gs2_header(flag: bytes) -> bytes:
    return (flag + b"=" + _BINDING_TYPE if flag == Binding.USED.encode() else flag) + b",,"


def _malformed(detail: str) -> ScramViolation:
    return ScramViolation("malformed SCRAM message", detail=detail)


def _attributes(message: bytes, *names: str) -> dict[str, str]:
    """Return the values of the attributes *names*, which must be the first ones of *message* in this order."""
    parts = _text(message).split(",")
    values: dict[str, str] = {}
    for index, name in enumerate(names):
        # The proof comes last; extensions stand between it and the attributes before it, and are ignored.
        part = parts[-1] if name == "p" else parts[index] if index < len(parts) else ""
        if not part.startswith(f"{name}="):
            raise _malformed(f'Expected attribute "{name}".')
        values[name] = part[2:]
    return values


def _checked_nonce(nonce: str) -> str:
    if not _NONCE.fullmatch(nonce):
        raise ScramViolation("non-printable characters in SCRAM nonce")
    return nonce


def _text(message: bytes) -> str:
    try:
        return message.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _malformed("It is not UTF-8.") from error


def _decode(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise _malformed("Invalid base64.") from error


def _encode(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _hmac(key: bytes, data: bytes) -> bytes:
    return hmac.digest(key, data, "sha256")


def _sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def _xor(left: bytes, right: bytes) -> bytes:
    assert len(left) == len(right)
    return (int.from_bytes(left) ^ int.from_bytes(right)).to_bytes(len(left))
