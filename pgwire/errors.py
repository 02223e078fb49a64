"""What can be wrong with a peer's bytes.

* WireError: never raised itself
  * ProtocolError: the bytes are not PostgreSQL's protocol, or break one of our limits
    * NotAPacketError: they are not even of a length that a first packet may have
    * UserMissingError: a startup packet names no user
  * VersionError: they are, of a version nobody here speaks
  * AuthenticationError: a SCRAM exchange did not convince
    * ScramViolation: it was not well formed, or asked for what nobody here offers
    * OtherSecret: the server's verifier was made of another salt than the keys that we have

Each carries the SQLSTATE that fits an answer, if an answer can still be given.  The text follows PostgreSQL's style: lower
case, no full stop, factual; it never contains a secret.
"""

from __future__ import annotations

from pgwire.sqlstate import SqlState


class WireError(ValueError):
    """A peer's bytes cannot be used."""

    sqlstate: SqlState = SqlState.PROTOCOL_VIOLATION
    """A hint for the answer."""

    def __init__(self, text: str, *, detail: str | None = None, sqlstate: SqlState | None = None) -> None:
        """*detail* is the answer's second sentence, *sqlstate* another code than the class's own."""
        super().__init__(text)
        self.detail = detail
        if sqlstate is not None:
            self.sqlstate = sqlstate


class ProtocolError(WireError):
    """The peer broke the protocol, or a limit of ours."""


class NotAPacketError(ProtocolError):
    """What came first is no packet: PostgreSQL closes such a connection without a word, and drivers rely on it."""


class UserMissingError(ProtocolError):
    """A startup packet names no user."""

    sqlstate = SqlState.INVALID_AUTHORIZATION


class VersionError(WireError):
    """The peer asked for a protocol version that nobody here speaks."""

    sqlstate = SqlState.FEATURE_NOT_SUPPORTED


class AuthenticationError(WireError):
    """A SCRAM exchange failed."""

    sqlstate = SqlState.INVALID_PASSWORD


class ScramViolation(AuthenticationError):  # noqa: N818 - the name says what happened
    """A SCRAM message breaks the protocol."""

    sqlstate = SqlState.PROTOCOL_VIOLATION


class OtherSecret(AuthenticationError):  # noqa: N818 - the name says what happened
    """The server has another verifier of the role than the keys were made for: its password was set anew."""
