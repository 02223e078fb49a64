"""What logins ask about their clients: a password that was set anew since a proof is noticed."""

from __future__ import annotations

import asyncio

from endpointd.auth.gate import Gate
from endpointd.auth.rolefeed import RoleFeed
from endpointd.auth.roles import Roles
from endpointd.routing.switchboard import Switchboard
from endpointd.rules import DEFAULT_LINES, read_rules
from endpointd.session.commands import ProofWanted
from endpointd.session.identification import Identification
from endpointd.settings import LimitSettings
from pgtopology.credentials import RoleCredential, VerifierKind, make_credentials
from pgwire.scram import format_verifier, make_verifier
from pgwire.startup import make_startup


def told(roles: Roles, salt: bytes) -> None:
    """Have the cluster tell that role ann has a verifier made with *salt*."""
    verifier = format_verifier(make_verifier("secret", salt, 1))
    roles.put(make_credentials(bytes(32), 4096, [RoleCredential(b"ann", VerifierKind.SCRAM, verifier)]))


async def identification() -> tuple[Roles, Identification]:
    roles = Roles(bytes(32))
    feed = RoleFeed(Switchboard(LimitSettings()), lambda: "token", roles)
    gate = Gate({"writer": read_rules(DEFAULT_LINES)}, feed)
    told(roles, b"a salt")
    return roles, Identification(gate, "writer", host="10.0.0.1", address="10.0.0.1")


async def test_a_password_that_was_set_anew_since_the_proof_is_noticed() -> None:
    roles, ann = await identification()
    wanted = await ann.ask(make_startup("ann", "shop"), None, asyncio.get_running_loop().time() + 10)
    assert isinstance(wanted, ProofWanted)
    assert wanted.verifier.salt == b"a salt"
    assert not wanted.is_doomed
    assert not ann.is_outdated()
    told(roles, b"another salt")
    assert ann.is_outdated()


async def test_a_name_that_is_no_role_is_asked_like_any_other_and_stays_the_same() -> None:
    roles, nobody = await identification()
    wanted = await nobody.ask(make_startup("nobody", "shop"), None, asyncio.get_running_loop().time() + 10)
    assert isinstance(wanted, ProofWanted)
    assert wanted.is_doomed
    told(roles, b"another salt")
    assert not nobody.is_outdated()
