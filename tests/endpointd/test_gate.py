"""What logins ask about their clients: a password that was set anew since a proof is noticed, and who became a superuser."""

from __future__ import annotations

import asyncio

from endpointd.auth.gate import VOUCHES_FOR_S, Gate
from endpointd.auth.rolefeed import RoleFeed
from endpointd.auth.roles import Roles
from endpointd.auth.slowdown import FREE
from endpointd.routing.switchboard import Switchboard
from endpointd.rules import DEFAULT_LINES, read_rules
from endpointd.session.commands import ProofWanted, Refused, Vouched
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


async def test_who_is_familiar_and_whose_role_is_gone_is_looked_for_once_more() -> None:
    roles = Roles(bytes(32))
    told(roles, b"a salt")
    door = gate(roles)
    door.succeeded("ann", "10.0.0.1")
    begun = asyncio.create_task(asked(of(door), "ann"))
    await asyncio.sleep(0)
    assert begun.done(), "who is familiar waits for nothing"
    roles.put(make_credentials(bytes(32), 4096, []))
    again = asyncio.create_task(asked(of(door), "ann"))
    await asyncio.sleep(0)
    assert not again.done()
    assert (await again).is_doomed


async def test_only_who_is_familiar_is_asked_at_once_and_by_the_password_of_the_moment() -> None:
    roles = Roles(bytes(32))
    told(roles, b"a salt")
    door = gate(roles)
    ann = make_startup("ann", "shop")
    assert of(door).ask_at_once(ann, None) is None
    door.succeeded("ann", "10.0.0.1")
    assert of(door, "10.0.0.2").ask_at_once(ann, None) is None
    for salt in (b"a salt", b"another salt"):
        told(roles, salt)
        for _ in range(2):
            wanted = of(door).ask_at_once(ann, None)
            assert wanted is not None
            assert wanted.verifier.salt == salt
    roles.put(make_credentials(bytes(32), 4096, []))
    assert of(door).ask_at_once(ann, None) is None


def trusting(heard_s_ago: float | None) -> tuple[Roles, Identification]:
    """Return one client whom a rule trusts, of a proxy that was told of the roles so long ago, or never."""
    roles = Roles(bytes(32))
    feed = RoleFeed(Switchboard(LimitSettings()), lambda: "token", roles)
    if heard_s_ago is not None:
        tell(roles, vouchable=True)
        feed.heard_at = asyncio.get_running_loop().time() - heard_s_ago
    return roles, of(Gate({"writer": read_rules(["host all all all trust"])}, feed))


def tell(roles: Roles, *, vouchable: bool | None) -> None:
    roles.put(make_credentials(bytes(32), 4096, [RoleCredential(b"ann", VerifierKind.NONE, None, vouchable)]))


async def vouched(one: Identification, user: str, wait_s: float = 10.0) -> str | None:
    """Return why *one* is not vouched for."""
    answer = await one.ask(make_startup(user, "shop"), None, asyncio.get_running_loop().time() + wait_s)
    assert isinstance(answer, Vouched | Refused)
    return answer.refusal.kind if isinstance(answer, Refused) else None


async def test_who_is_mighty_or_no_role_is_not_vouched_for() -> None:
    roles, ann = trusting(0)
    assert await vouched(ann, "ann") is None
    assert await vouched(ann, "nobody") == "not_vouched_for"
    tell(roles, vouchable=False)
    assert await vouched(ann, "ann") == "not_vouched_for"
    tell(roles, vouchable=None)
    assert await vouched(ann, "ann") is None, "the servers decide where a noded of an earlier version does not say"


async def test_who_has_become_mighty_while_its_login_waited_for_a_server_is_not_vouched_for_any_more() -> None:
    roles, ann = trusting(0)
    assert ann.objection is None
    assert await vouched(ann, "ann") is None
    assert ann.objection is None
    tell(roles, vouchable=False)
    assert ann.objection is not None
    assert ann.objection.refusal.kind == "not_vouched_for"


async def test_nobody_is_vouched_for_by_what_was_told_long_ago() -> None:
    _, ann = trusting(VOUCHES_FOR_S + 1)
    waiting = asyncio.create_task(vouched(ann, "ann", wait_s=0.1))
    await asyncio.sleep(0)
    assert ann.waits == "no node has told for some seconds which roles there are, and its role may not be the same any more"
    assert await waiting == "roles_unknown"
    _, early = trusting(None)
    assert await vouched(early, "ann", wait_s=0.1) == "roles_unknown"
