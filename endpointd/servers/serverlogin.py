"""The proxy's own login at a server, in a client's name, as a state machine. Pure.

Either a certificate of its own vouches for the client, and the server asks for nothing.  Or it has the key that the client's
proof gave away, and no password: it can answer SCRAM with the verifier that the proof was checked against, and nothing else.
Over TLS it binds the exchange to the server's certificate where the server offers that.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

from pgwire.errors import ProtocolError
from pgwire.messages import Authentication, AuthenticationKind, Report, sasl_initial_response, sasl_response
from pgwire.scram import MECHANISM, MECHANISM_PLUS, ScramClient, Verifier, keys_for
from pgwire.sqlstate import SqlState

LOGIN_BYTES_MAX = 1 << 16
"""Of a server's words that are kept back, and of one of its messages in a login. A hundred reported parameters fit."""


class Limit(Enum):
    """Whose number of connections is used up where a server refuses a login with 53300."""

    SERVER = auto()
    """It has none left for anybody."""
    ROLE = auto()
    DATABASE = auto()
    """Its own CONNECTION LIMIT: the server has room for others."""


_LIMITS = {"InitializeSessionUserId": Limit.ROLE, "CheckMyDatabase": Limit.DATABASE}
"""Where PostgreSQL finds a limit used up that is not the server's (field R)."""


def limit_of(report: Report) -> Limit | None:
    """Return which limit a server names in *report*, if it names any."""
    return _LIMITS.get(report.get("R") or "", Limit.SERVER) if report.sqlstate == SqlState.TOO_MANY_CONNECTIONS else None


@dataclass(frozen=True, slots=True)
class OtherMethod(Exception):  # noqa: N818 - the name says what happened
    """The server asks for what only the client itself could answer."""

    method: str


_METHODS = {
    AuthenticationKind.CLEARTEXT_PASSWORD: "password",
    AuthenticationKind.MD5_PASSWORD: "md5",
    AuthenticationKind.GSS: "gss",
    AuthenticationKind.GSS_CONTINUE: "gss",
    AuthenticationKind.SSPI: "sspi",
}


class VouchedLogin:
    """Of a client for whom a certificate of ours vouches: the server is content at once, or we have no answer."""

    def __init__(self) -> None:
        self.is_over = False
        """Whether the server is content."""

    def answer(self, asked: Authentication) -> None:
        """Return None, there is nothing to send. Raises OtherMethod for a server that asks for anything."""
        if asked.kind is not AuthenticationKind.OK:
            raise OtherMethod(_METHODS.get(asked.kind) or ", ".join(asked.mechanisms) or "another")
        self.is_over = True


class ServerLogin:
    """Answers one server by the key that a client's proof gave away."""

    def __init__(self, verifier: Verifier, client_key: bytes, nonce: str, *, binding: bytes | None = None) -> None:
        """*binding*: the end point of the server's certificate, if the connection is encrypted."""
        self._keys = keys_for(verifier, client_key)
        self._nonce = nonce
        self._binding = binding
        self._scram: ScramClient | None = None
        self._has_been_told = False
        self.is_over = False
        """Whether the server is content."""

    def answer(self, asked: Authentication) -> bytes | None:
        """Return what to send for *asked*, None for nothing.

        Raises OtherMethod; OtherSecret if the server's verifier is not the one of the client's proof; ProtocolError or
        another AuthenticationError from a server that does not behave, or does not know the role's secret itself.
        """
        match asked.kind:
            case AuthenticationKind.OK:
                if self._scram is not None and not self._has_been_told:
                    raise ProtocolError("the server ended SCRAM without a proof of its own")
                self.is_over = True
                return None
            case AuthenticationKind.SASL:
                return self._first(asked.mechanisms)
            case AuthenticationKind.SASL_CONTINUE if self._scram is not None:
                return sasl_response(self._scram.respond(asked.data))
            case AuthenticationKind.SASL_FINAL if self._scram is not None:
                self._scram.finish(asked.data)
                self._has_been_told = True
                return None
            case _:
                method = _METHODS.get(asked.kind)
                if method is None:
                    raise ProtocolError(f"unexpected authentication request {asked.kind}")
                raise OtherMethod(method)

    def _first(self, mechanisms: tuple[str, ...]) -> bytes:
        if self._scram is not None:
            raise ProtocolError("the server began SCRAM twice")
        is_plus = self._binding is not None and MECHANISM_PLUS in mechanisms
        if not is_plus and MECHANISM not in mechanisms:
            raise OtherMethod(", ".join(mechanisms) or "SASL")
        self._scram = ScramClient(
            self._keys,
            self._nonce,
            binding=self._binding if is_plus else None,
            could_bind=self._binding is not None and not is_plus,
        )
        return sasl_initial_response(MECHANISM_PLUS if is_plus else MECHANISM, self._scram.first)
