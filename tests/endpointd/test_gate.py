"""What logins ask about their clients: a password that was set anew since a proof is noticed."""

from __future__ import annotations

import asyncio

from endpointd.auth.gate import Gate
from endpointd.auth.rolefeed import RoleFeed
from endpointd.auth.roles import Roles
from endpointd.auth.slowdown import FREE
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


def gate(roles: Roles) -> Gate:
    return Gate({"writer": read_rules(DEFAULT_LINES)}, RoleFeed(Switchboard(LimitSettings()), lambda: "token", roles))


def of(gate: Gate, address: str = "10.0.0.1") -> Identification:
    return Identification(gate, "writer", host=address, address=address)


async def identification() -> tuple[Roles, Identification]:
    roles = Roles(bytes(32))
    told(roles, b"a salt")
    return roles, of(gate(roles))


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


async def asked(one: Identification, user: str) -> ProofWanted:
    wanted = await one.ask(make_startup(user, "shop"), None, asyncio.get_running_loop().time() + 10)
    assert isinstance(wanted, ProofWanted)
    return wanted


async def test_who_leaves_before_the_answer_to_a_failure_is_asked_no_sooner_for_that() -> None:
    roles = Roles(bytes(32))
    told(roles, b"a salt")
    door, loop = gate(roles), asyncio.get_running_loop()
    door.succeeded("bob", "10.0.0.1")
    held_back_s = [door.failed("ann", "10.0.0.1") for _ in range(FREE + 8)][-1]
    until = loop.time() + held_back_s
    again = of(door)
    waiting = asyncio.create_task(asked(again, "ann"))
    # Meanwhile others come in: whoever is elsewhere, and whoever is known to log in from there.
    await asked(of(door, "10.0.0.2"), "ann")
    await asked(of(door), "bob")
    assert again.waits == "logins from its address are slowed down, since some have just failed"
    assert not waiting.done()
    await waiting
    assert loop.time() >= until - 0.01


async def test_why_a_login_is_not_asked_yet_is_told_as_it_is() -> None:
    roles = Roles(bytes(32))
    ann = of(gate(roles))
    assert ann.waits == "no node has told yet which roles there are"
    told(roles, b"a salt")
    assert ann.waits == "the roles are looked at, since it has not logged in from its address lately"
