"""SCRAM-SHA-256: both roles against the RFC's example, against each other, and against meddling."""

from __future__ import annotations

import base64
import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pgwire.errors import AuthenticationError, OtherSecret, ScramViolation
from pgwire.scram import (
    ITERATIONS_MAX,
    ScramClient,
    ScramServer,
    Verifier,
    derive_keys,
    format_verifier,
    keys_for,
    keys_of_password,
    make_verifier,
    parse_verifier,
    prepare_password,
)
from pgwire.sqlstate import SqlState

SALT = base64.b64decode("W22ZaJ0SNY7soEsUEjb6gQ==")
CLIENT_NONCE = "rOprNGfwEbeRWgbNEkqO"
SERVER_NONCE = "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"


def test_the_example_of_rfc_7677() -> None:
    """The RFC's user name is in its messages and ours is empty, so proofs differ: keys and signatures are compared by role."""
    server = ScramServer(make_verifier("pencil", SALT, 4096), SERVER_NONCE)
    challenge = server.challenge(f"n,,n=user,r={CLIENT_NONCE}".encode())
    assert challenge == f"r={CLIENT_NONCE}{SERVER_NONCE},s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096".encode()
    outcome, client_key = server.verify(
        f"c=biws,r={CLIENT_NONCE}{SERVER_NONCE},p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=".encode()
    )
    assert outcome == b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="
    assert client_key == derive_keys("pencil", SALT, 4096).client_key


@settings(max_examples=20, deadline=None)
@given(st.text(max_size=20), st.binary(min_size=1, max_size=20))
def test_a_client_that_knows_the_password_convinces_and_is_convinced(password: str, salt: bytes) -> None:
    server = ScramServer(make_verifier(password, salt, 3), SERVER_NONCE)
    client = ScramClient(keys_of_password(password), CLIENT_NONCE)
    outcome, client_key = server.verify(client.respond(server.challenge(client.first)))
    client.finish(outcome)
    assert client_key == derive_keys(password, salt, 3).client_key


def test_a_wrong_password_convinces_nobody() -> None:
    server = ScramServer(make_verifier("right", SALT, 2), SERVER_NONCE)
    client = ScramClient(keys_of_password("wrong"), CLIENT_NONCE)
    with pytest.raises(AuthenticationError, match="password authentication failed"):
        server.verify(client.respond(server.challenge(client.first)))


def test_a_server_that_does_not_know_the_password_is_found_out() -> None:
    client = ScramClient(keys_of_password("pencil"), CLIENT_NONCE)
    client.respond(f"r={CLIENT_NONCE}x,s={base64.b64encode(SALT).decode()},i=4096".encode())
    with pytest.raises(AuthenticationError, match="incorrect server signature"):
        client.finish(b"v=" + base64.b64encode(bytes(32)))
    with pytest.raises(AuthenticationError, match="other-error"):
        client.finish(b"e=other-error")


@pytest.mark.parametrize(
    "challenge",
    [
        b"r=another,s=QQ==,i=4096",
        f"r={CLIENT_NONCE},s=QQ==,i=4096".encode(),
        f"r={CLIENT_NONCE}x,s=,i=4096".encode(),
        f"r={CLIENT_NONCE}x,s=QQ==,i=0".encode(),
        f"r={CLIENT_NONCE}x,s=QQ==,i={ITERATIONS_MAX + 1}".encode(),
        f"r={CLIENT_NONCE}x,s=QQ==,i=-1".encode(),
        f"r={CLIENT_NONCE}x,s=Q,i=1".encode(),
        f"r={CLIENT_NONCE}x,i=1".encode(),
        b"m=ext,r=x,s=QQ==,i=1",
        b"\xff",
        b"",
    ],
)
def test_a_client_refuses_a_bad_challenge(challenge: bytes) -> None:
    with pytest.raises(AuthenticationError):
        ScramClient(keys_of_password("pencil"), CLIENT_NONCE).respond(challenge)


@pytest.mark.parametrize(
    "first",
    [b"", b"n", b"n,", b"p=tls-server-end-point,,n=,r=abc", b"n,a=admin,n=,r=abc", b"n,,r=abc", b"n,,n=,r=", b"n,,n=,r=\x01"],
)
def test_a_server_refuses_a_bad_first_message(first: bytes) -> None:
    with pytest.raises(AuthenticationError):
        ScramServer(make_verifier("pencil", SALT, 2), SERVER_NONCE).challenge(first)


@pytest.mark.parametrize(
    "change",
    [(b"c=biws", b"c=eSws"), (b"r=", b"r=x"), (b",p=", b",q="), (b",p=", b",p=QQ==,p="), (b",p=", b",x=1,p=")],
)
def test_a_server_refuses_a_changed_final_message(change: tuple[bytes, bytes]) -> None:
    server = ScramServer(make_verifier("pencil", SALT, 2), SERVER_NONCE)
    client = ScramClient(keys_of_password("pencil"), CLIENT_NONCE)
    final = client.respond(server.challenge(client.first))
    with pytest.raises(AuthenticationError):
        server.verify(final.replace(*change, 1))


def test_messages_out_of_order_are_refused() -> None:
    with pytest.raises(AuthenticationError, match="out of order"):
        ScramClient(keys_of_password("pencil"), CLIENT_NONCE).finish(b"v=QQ==")
    with pytest.raises(AuthenticationError):
        ScramServer(make_verifier("pencil", SALT, 2), SERVER_NONCE).verify(b"c=biws,r=,p=QQ==")


def test_a_client_that_could_bind_but_was_not_offered_it_is_served() -> None:
    server = ScramServer(make_verifier("pencil", SALT, 2), SERVER_NONCE)
    assert server.challenge(b"y,,n=,r=abc").startswith(b"r=abc")


END_POINT = bytes(range(32))


def _exchange(client: ScramClient, server: ScramServer) -> bytes:
    """Return the client's key, as the server has learnt it."""
    outcome, client_key = server.verify(client.respond(server.challenge(client.first)))
    client.finish(outcome)
    return client_key


def test_both_are_bound_to_the_certificate() -> None:
    server = ScramServer(make_verifier("pencil", SALT, 2), SERVER_NONCE, binding=END_POINT, is_plus=True)
    client = ScramClient(keys_of_password("pencil"), CLIENT_NONCE, binding=END_POINT)
    assert client.first.startswith(b"p=tls-server-end-point,,n=,r=")
    assert _exchange(client, server) == derive_keys("pencil", SALT, 2).client_key


def test_a_proof_made_for_another_certificate_is_refused() -> None:
    server = ScramServer(make_verifier("pencil", SALT, 2), SERVER_NONCE, binding=END_POINT, is_plus=True)
    client = ScramClient(keys_of_password("pencil"), CLIENT_NONCE, binding=bytes(32))
    with pytest.raises(ScramViolation, match="channel binding check failed") as caught:
        _exchange(client, server)
    assert caught.value.sqlstate is SqlState.INVALID_AUTHORIZATION


@pytest.mark.parametrize(
    ("first", "binding", "is_plus", "text"),
    [
        (b"y,,n=,r=abc", END_POINT, False, "channel binding negotiation error"),
        (b"n,,n=,r=abc", END_POINT, True, "malformed"),
        (b"y,,n=,r=abc", END_POINT, True, "malformed"),
        (b"p=tls-server-end-point,,n=,r=abc", END_POINT, False, "malformed"),
        (b"p=tls-server-end-point,,n=,r=abc", None, False, "malformed"),
        (b"p=tls-unique,,n=,r=abc", END_POINT, True, "unsupported SCRAM channel-binding type"),
        (b"n=,,n=,r=abc", None, False, "malformed"),
        (b"n,,m=ext,n=,r=abc", None, False, "unsupported SCRAM extension"),
    ],
)
def test_flags_that_do_not_fit_what_was_offered_are_refused(
    first: bytes, binding: bytes | None, is_plus: bool, text: str
) -> None:
    server = ScramServer(make_verifier("pencil", SALT, 2), SERVER_NONCE, binding=binding, is_plus=is_plus)
    with pytest.raises(ScramViolation, match=text):
        server.challenge(first)


def test_a_client_may_do_without_binding_where_it_is_offered() -> None:
    server = ScramServer(make_verifier("pencil", SALT, 2), SERVER_NONCE, binding=END_POINT)
    assert _exchange(ScramClient(keys_of_password("pencil"), CLIENT_NONCE), server)


def test_the_key_that_a_proof_gave_away_opens_every_server_with_the_same_verifier() -> None:
    verifier = make_verifier("pencil", SALT, 2)
    client_key = _exchange(ScramClient(keys_of_password("pencil"), CLIENT_NONCE), ScramServer(verifier, SERVER_NONCE))
    other = ScramServer(verifier, SERVER_NONCE + "x")
    assert _exchange(ScramClient(keys_for(verifier, client_key), CLIENT_NONCE, could_bind=True), other) == client_key


@pytest.mark.parametrize("other", [make_verifier("pencil", b"another salt", 2), make_verifier("pencil", SALT, 3)])
def test_a_server_with_another_verifier_is_told_apart(other: Verifier) -> None:
    verifier = make_verifier("pencil", SALT, 2)
    client = ScramClient(keys_for(verifier, derive_keys("pencil", SALT, 2).client_key), CLIENT_NONCE)
    with pytest.raises(OtherSecret):
        client.respond(ScramServer(other, SERVER_NONCE).challenge(client.first))


def test_verifiers_are_written_as_postgresql_does() -> None:
    verifier = make_verifier("pencil", SALT, 4096)
    text = format_verifier(verifier)
    assert text.startswith("SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$")
    assert parse_verifier(text) == verifier


@pytest.mark.parametrize("text", ["", "md5abc", "SCRAM-SHA-256$0:QQ==$QQ==:QQ==", "SCRAM-SHA-256$1:Q$QQ==:QQ=="])
def test_other_texts_are_no_verifiers(text: str) -> None:
    with pytest.raises(ValueError, match="not a SCRAM-SHA-256 verifier"):
        parse_verifier(text)


@pytest.mark.parametrize(
    ("password", "prepared"),
    [
        ("IX", "IX"),
        ("I\u00adX", "IX"),
        ("\u2168", "IX"),
        ("a\u00a0b", "a b"),
        ("\u00aa", "a"),
        ("\u0007", "\u0007"),
        ("\u0627\u0031", "\u0627\u0031"),
        ("", ""),
    ],
)
def test_passwords_are_prepared_as_postgresql_does(password: str, prepared: str) -> None:
    """Examples of RFC 4013; where it prohibits, PostgreSQL takes the bytes as they are."""
    assert prepare_password(password) == prepared.encode()


@given(st.binary(max_size=60))
def test_no_bytes_raise_anything_but_our_error(data: bytes) -> None:
    client = ScramClient(keys_of_password("pencil"), CLIENT_NONCE)
    server = ScramServer(make_verifier("pencil", SALT, 2), SERVER_NONCE)
    for step in (client.respond, client.finish, server.challenge, server.verify):
        with contextlib.suppress(AuthenticationError):
            step(data)
