"""A proxy's part of SASL with one client, as a state machine: a message in, a message out, until there is a proof. Pure.

What it says and refuses, in which order, is PostgreSQL's: CheckSASLAuth in auth-sasl.c and scram_exchange in auth-scram.c.
A role that has no usable secret is asked like any other and fails like any other, at the end.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from pgwire.errors import AuthenticationError, ProtocolError
from pgwire.messages import (
    Authentication,
    AuthenticationKind,
    Frontend,
    decode_sasl_initial_response,
    encode_authentication,
    sasl_offer,
)
from pgwire.scram import MECHANISM, MECHANISM_PLUS, ScramServer, Verifier


@dataclass(frozen=True, slots=True)
class Asked:
    """The client is to answer this."""

    message: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Proven:
    """The client knows the password."""

    verifier: Verifier
    client_key: bytes = field(repr=False)
    """What its proof gave away: with it one can log in wherever the verifier is the same."""
    final: bytes = field(repr=False)
    """AuthenticationSASLFinal, by which the client sees that we have the verifier."""


class Exchange:
    """Asks one client for a proof."""

    def __init__(self, verifier: Verifier, nonce: str, *, is_doomed: bool = False, binding: bytes | None = None) -> None:
        """*is_doomed*: no proof is good enough, and the client must not learn why.

        *binding*: the end point of our certificate if the connection is encrypted: then PLUS is offered too.
        """
        self._verifier = verifier
        self._nonce = nonce
        self._is_doomed = is_doomed
        self._binding = binding
        self._scram: ScramServer | None = None
        self._is_challenged = False

    @property
    def opening(self) -> bytes:
        """AuthenticationSASL: what the client may choose."""
        return sasl_offer(*self._mechanisms)

    @property
    def _mechanisms(self) -> tuple[str, ...]:
        return (MECHANISM,) if self._binding is None else (MECHANISM_PLUS, MECHANISM)

    def answer(self, kind: int, payload: bytes) -> Asked | Proven:
        """Return what follows from a client's message. Raises ProtocolError or AuthenticationError: then it is over."""
        if kind != Frontend.AUTHENTICATION_RESPONSE:
            raise ProtocolError(f"expected SASL response, got message type {kind}")
        if self._scram is None:
            mechanism, first = decode_sasl_initial_response(payload)
            if mechanism not in self._mechanisms:
                raise ProtocolError("client selected an invalid SASL authentication mechanism")
            is_plus = mechanism == MECHANISM_PLUS
            self._scram = ScramServer(self._verifier, self._nonce, binding=self._binding, is_plus=is_plus)
            return self._asked(self._scram.challenge(first) if first else b"")
        if not self._is_challenged:
            return self._asked(self._scram.challenge(payload))
        final, client_key = self._scram.verify(payload)
        if self._is_doomed:
            raise AuthenticationError("password authentication failed")
        return Proven(self._verifier, client_key, encode_authentication(Authentication(AuthenticationKind.SASL_FINAL, final)))

    def _asked(self, challenge: bytes) -> Asked:
        self._is_challenged = bool(challenge)
        return Asked(encode_authentication(Authentication(AuthenticationKind.SASL_CONTINUE, challenge)))
