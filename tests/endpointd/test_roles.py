"""What a name is checked against: the role's own verifier, or PostgreSQL's own mock, which tells nobody that it is one."""

from __future__ import annotations

import hashlib

import pytest

from endpointd.auth.rolefeed import has_reached, sources
from endpointd.auth.roles import Doom, Roles
from pgtopology.credentials import RoleCredential, VerifierKind, make_credentials
from pgtopology.lsn import Lsn
from pgtopology.node import Role
from pgwire.scram import format_verifier, make_verifier
from testkit.feedserver import document, member

NONCE = bytes(range(32))
SEED = b"\x55" * 32
REAL = make_verifier("secret", b"0123456789abcdef", 5000)
LONG = b"x" * 62 + "é".encode()  # 64 bytes, cut within the last letter


def roles(*told: RoleCredential) -> Roles:
    found = Roles(SEED)
    found.put(make_credentials(NONCE, 9000, told))
    return found


def scram(name: bytes) -> RoleCredential:
    return RoleCredential(name, VerifierKind.SCRAM, format_verifier(REAL))


def test_a_role_is_checked_against_its_own_verifier() -> None:
    secret = roles(scram(b"alice")).find("alice")
    assert secret.verifier == REAL
    assert secret.doom is None


@pytest.mark.parametrize(
    ("told", "doom"),
    [
        (None, Doom.NO_ROLE),
        (RoleCredential(b"eve", VerifierKind.MD5), Doom.MD5),
        (RoleCredential(b"eve", VerifierKind.NONE), Doom.NO_PASSWORD),
        (RoleCredential(b"eve", VerifierKind.OTHER), Doom.UNUSABLE),
        (RoleCredential(b"eve", VerifierKind.SCRAM), Doom.UNUSABLE),
        (RoleCredential(b"eve", VerifierKind.SCRAM, "SCRAM-SHA-256$4096:$$"), Doom.UNUSABLE),
        (RoleCredential(b"eve", "scram-512", format_verifier(REAL)), Doom.UNUSABLE),
    ],
)
def test_everybody_else_is_shown_the_same_mock(told: RoleCredential | None, doom: Doom) -> None:
    found = roles(scram(b"alice"), *([told] if told is not None else []))
    secret = found.find("eve")
    assert secret.doom is doom
    assert (secret.verifier.iterations, secret.verifier.salt) == (4096, hashlib.sha256(b"eve" + NONCE).digest()[:16])
    assert secret == found.find("eve")


def test_a_mocks_keys_are_nobodys_and_not_guessable() -> None:
    keys = roles().find("eve").verifier
    other = Roles(b"\x66" * 32)
    other.put(make_credentials(NONCE, 4096, ()))
    assert keys.salt == other.find("eve").verifier.salt
    assert keys.stored_key != other.find("eve").verifier.stored_key
    assert bytes(32) not in (keys.stored_key, keys.server_key)


def test_before_anything_is_known_everybody_is_shown_a_mock() -> None:
    found = Roles(SEED)
    secret = found.find("alice")
    assert not found.is_known
    assert (secret.doom, secret.version, len(secret.verifier.salt)) == (Doom.UNKNOWN, None, 16)


def test_a_name_is_cut_where_postgresql_cuts_it() -> None:
    found = roles(scram(LONG[:63]))
    assert found.find(LONG.decode()).doom is None
    assert found.find("y" * 80).verifier.salt == hashlib.sha256(b"y" * 63 + NONCE).digest()[:16]


def test_a_name_that_is_not_utf_8_is_found() -> None:
    assert roles(scram(b"m\xfcller")).find(b"m\xfcller".decode("utf-8", "surrogateescape")).doom is None


def test_what_is_told_anew_replaces_what_was_told() -> None:
    found = roles(scram(b"alice"))
    before = found.find("alice").version
    found.put(make_credentials(NONCE, 4096, [scram(b"bob")]))
    assert (found.find("alice").doom, found.find("bob").doom, found.count) == (Doom.NO_ROLE, None, 1)
    assert found.version not in (before, None)


def test_a_secret_shows_no_key() -> None:
    shown = repr(roles(scram(b"alice")).find("alice"))
    assert repr(REAL.stored_key) not in shown
    assert repr(REAL.server_key) not in shown


def test_every_member_may_be_asked_and_the_writer_is_known_as_such() -> None:
    named = document(member("n2", noded_port=72), member("n1", role=Role.PRIMARY, noded_port=71), writer="n1")
    assert [(one.node, one.url, one.is_writer) for one in sources(named)] == [
        ("n1", "http://127.0.0.1:71", True),
        ("n2", "http://127.0.0.1:72", False),
    ]
    assert not any(one.is_writer for one in sources(document(member("n1"), candidate="n1")))
    assert sources(None) == ()


def test_a_standby_is_believed_only_where_it_is_not_behind() -> None:
    assert has_reached(Lsn(2), Lsn(1))
    assert has_reached(Lsn(1), Lsn(1)), "a writer's commit is visible at the standbys first"
    assert not has_reached(Lsn(1), Lsn(2))
    assert not has_reached(None, Lsn(1))
    assert not has_reached(Lsn(2), None), "after a failover what is known stands until the writer has spoken"


def test_who_may_come_in_by_our_word_is_who_is_told_to_be() -> None:
    told = roles(
        RoleCredential(b"ann", "none", None, True),
        RoleCredential(b"x" * 63, "none", None, True),
        RoleCredential(b"boss", "none", None, False),
        RoleCredential(b"eve", "none"),
    )
    long = "x" * 70
    assert [name for name in ("ann", long, "boss", "eve", "nobody", "") if told.is_vouchable(name)] == ["ann", long]


def test_where_a_noded_of_an_earlier_version_told_the_roles_servers_decide() -> None:
    assert Roles(SEED).is_vouchable("ann")
    earlier = roles(scram(b"ann"), RoleCredential(b"boss", "none"))
    assert all(earlier.is_vouchable(name) for name in ("ann", "boss", "nobody"))
    earlier.put(make_credentials(NONCE, 9000, [RoleCredential(b"ann", "none", None, False)]))
    assert not earlier.is_vouchable("ann")
