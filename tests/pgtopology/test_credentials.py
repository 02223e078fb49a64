"""What is told of roles: named by its content, read back as it was, and never shown."""

from __future__ import annotations

import pytest

from pgtopology.codec import decode, encode
from pgtopology.credentials import Credentials, RoleCredential, RolesAnswer, VerifierKind, make_credentials

NONCE = bytes(range(32))
VERIFIER = "SCRAM-SHA-256$4096:c2FsdA==$c3RvcmVk:c2VydmVy"
ALICE = RoleCredential(b"alice", VerifierKind.SCRAM, VERIFIER)
BOB = RoleCredential(b"bob\xff", VerifierKind.MD5)


def made(*roles: RoleCredential, nonce: bytes = NONCE, iterations: int = 4096) -> Credentials:
    return make_credentials(nonce, iterations, roles)


def test_the_order_of_the_roles_is_no_other_version() -> None:
    assert made(ALICE, BOB) == made(BOB, ALICE)


@pytest.mark.parametrize(
    "other",
    [
        made(ALICE),
        made(ALICE, RoleCredential(b"bob", VerifierKind.MD5)),
        made(ALICE, RoleCredential(b"bob\xff", VerifierKind.NONE)),
        made(RoleCredential(b"alice", VerifierKind.SCRAM, VERIFIER + "="), BOB),
        made(RoleCredential(b"alice", VerifierKind.SCRAM, VERIFIER, False), BOB),
        made(RoleCredential(b"alice", VerifierKind.SCRAM, VERIFIER, True), BOB),
        made(ALICE, BOB, nonce=bytes(32)),
        made(ALICE, BOB, iterations=4097),
    ],
)
def test_every_other_content_is_another_version(other: Credentials) -> None:
    assert other.version != made(ALICE, BOB).version


def test_an_answer_is_read_back_as_it_was() -> None:
    answer = RolesAnswer(version="v", age_ms=3, problem="locked", credentials=made(ALICE, BOB))
    assert decode(encode(answer), RolesAnswer) == answer


def test_a_kind_of_a_later_version_is_read() -> None:
    answer = RolesAnswer(version="v", credentials=made(RoleCredential(b"eve", "scram-512")))
    assert decode(encode(answer), RolesAnswer) == answer


def test_a_noded_of_an_earlier_version_says_nothing_of_vouching() -> None:
    role = b'{"name":"YQ==","kind":"none"}'
    told = b'{"version":"v","credentials":{"version":"v","mock_nonce":"","scram_iterations":1,"roles":[%b]}}' % role
    credentials = decode(told, RolesAnswer).credentials
    assert credentials is not None
    assert credentials.roles[0].vouchable is None


def test_no_secret_is_ever_shown() -> None:
    credentials = made(ALICE, BOB)
    answer = RolesAnswer(version=credentials.version, credentials=credentials)
    for shown in (repr(answer), str(credentials), f"{credentials.roles[0]}", repr([answer]), repr(credentials.roles)):
        assert "c3RvcmVk" not in shown
        assert "SCRAM-SHA-256" not in shown
        assert repr(NONCE)[2:-1] not in shown
        assert NONCE.hex() not in shown
