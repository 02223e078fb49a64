"""What a noded tells proxies of its roles: every change at once, no md5 hash, and what was seen last while it cannot look."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import signal
from collections.abc import AsyncGenerator, Callable

import asyncpg
import pytest

from daemonkit.httpclient import HttpClient, HttpRefused
from daemonkit.principals import Scope, encode_verifiers
from endpointd.auth.gate import LOOK_S, Gate
from endpointd.auth.rolefeed import RoleFeed
from endpointd.auth.roles import Doom, Roles
from endpointd.routing.switchboard import Switchboard
from endpointd.rules import DEFAULT_LINES, read_rules
from endpointd.settings import LimitSettings
from noded.postgres import vouching
from noded.report.credentials import OURS, ROLES_MAX, compose, md5_note
from pgtopology.codec import decode
from pgtopology.credentials import Credentials, RoleCredential, RolesAnswer, VerifierKind
from pgtopology.document import Topology
from pgtopology.node import Role
from pgwire.messages import decode_authentication, sasl_initial_response
from pgwire.scram import ScramClient, format_verifier, keys_of_password, make_verifier
from pgwire.startup import encode_startup, make_startup
from testkit.feedserver import document
from testkit.feedserver import member as member_of
from tests.noded.members import TOKEN, Cluster, Member, running_members

NONCE = bytes(range(32))
VERIFIER = "SCRAM-SHA-256$4096:c2FsdA==$c3RvcmVk:c2VydmVy"


def row(
    name: bytes, kind: str = "scram", verifier: bytes | None = VERIFIER.encode(), *, ordinary: bool = False
) -> dict[str, object]:
    return {"name": name, "kind": kind, "verifier": verifier if kind == "scram" else None, "ordinary": ordinary}


def test_roles_of_ours_are_not_told() -> None:
    told, left_out, note = compose([row(b"app"), *map(row, OURS)], NONCE, 4096)
    assert [role.name for role in told.roles] == [b"app"]
    assert (left_out, note) == (False, None)


def test_of_too_many_roles_the_youngest_are_left_out() -> None:
    """Rows come in the order in which the roles were made."""
    rows = [row(b"z%d" % number, "none") for number in range(ROLES_MAX)]
    assert compose([*rows, row(OURS[0])], NONCE, 4096)[1] is False
    told, left_out, _ = compose([*rows, row(OURS[0]), row(b"a")], NONCE, 4096)
    assert left_out is True
    assert len(told.roles) == ROLES_MAX
    assert b"a" not in [role.name for role in told.roles]


def test_a_verifier_that_is_no_text_is_told_as_unusable() -> None:
    told, _, _ = compose([row(b"app", verifier=b"SCRAM-SHA-256$\xff")], NONCE, 4096)
    assert told.roles == (RoleCredential(b"app", VerifierKind.OTHER, None, False),)


def test_proxies_are_told_to_vouch_for_those_whom_the_servers_files_can_name() -> None:
    odd = (b"endpointd_x", b"pg_x", b"/x", b'a"b', b"\xff")
    rows = [row(name, ordinary=True) for name in (b"ann", *odd)]
    told, _, _ = compose([*rows, row(b"boss")], NONCE, 4096)
    assert {role.name: role.vouchable for role in told.roles} == {b"ann": True, b"boss": False} | dict.fromkeys(odd, False)
    many = [row(b"r%d" % number, "none", ordinary=True) for number in range(vouching.ROLES_MAX + 1)]
    told, _, _ = compose(many, NONCE, 4096)
    assert [role.name for role in told.roles if not role.vouchable] == [b"r%d" % vouching.ROLES_MAX], "the youngest"


def test_md5_roles_are_named_but_not_without_end() -> None:
    def md5(name: bytes) -> RoleCredential:
        return RoleCredential(name, VerifierKind.MD5)

    assert md5_note([RoleCredential(b"app", VerifierKind.SCRAM, VERIFIER)]) is None
    note = md5_note([md5(b"m\xfcller")])
    assert note is not None
    assert note.startswith('nobody can log in as role "m\\xfcller": ')
    many = md5_note([md5(b"r%d" % number) for number in range(7)])
    assert many is not None
    assert 'roles "r0", "r1", "r2", "r3", "r4" and 2 more:' in many


@contextlib.asynccontextmanager
async def one_writer() -> AsyncGenerator[tuple[Cluster, Member], None]:
    async with running_members(1) as cluster:
        await cluster.found()
        yield cluster, cluster.members[0]


async def ask(member: Member, since: str | None = None, *, wait_s: float = 0) -> RolesAnswer:
    async with member.client() as client:
        path = f"/v1/roles?wait_s={wait_s}" + (f"&since={since}" if since is not None else "")
        return decode(await client.get(path, timeout_s=wait_s + 5), RolesAnswer)


async def known(member: Member) -> Credentials:
    answer = await ask(member)
    assert answer.credentials is not None, answer
    return answer.credentials


def find(credentials: Credentials, name: str) -> RoleCredential | None:
    return next((role for role in credentials.roles if role.name == name.encode()), None)


async def execute(cluster: Cluster, member: Member, sql: str) -> None:
    """Run the statements *sql* in one transaction."""
    connection = await connect(cluster, member)
    try:
        await connection.execute(sql)
    finally:
        connection.terminate()


async def connect(cluster: Cluster, member: Member) -> asyncpg.Connection:
    return await asyncpg.connect(
        host="127.0.0.1",
        port=member.pg_port,
        user="postgres",
        password=cluster.passwords["superuser"],
        database="postgres",
        ssl=False,
        timeout=5,
    )


async def change(cluster: Cluster, member: Member, *statements: str) -> Credentials:
    """Run *statements* in one transaction while a question waits; return its answer, which must not be long after."""
    before = await known(member)
    waiting = asyncio.create_task(ask(member, before.version, wait_s=20))
    await execute(cluster, member, "; ".join(statements))
    done = asyncio.get_running_loop().time()
    answer = await waiting
    assert asyncio.get_running_loop().time() - done < 3, "it was waited for, not asked again"
    assert answer.credentials is not None, answer
    assert answer.version != before.version
    return answer.credentials


def verifier(password: str) -> str:
    return format_verifier(make_verifier(password, b"0123456789abcdef"))


@pytest.mark.integration
@pytest.mark.versions
async def test_every_change_is_told_to_who_waits() -> None:
    async with one_writer() as (cluster, only):
        first = await known(only)
        assert [role.name for role in first.roles if role.name.startswith(b"endpointd")] == []
        assert len(first.mock_nonce) == 32
        postgres = find(first, "postgres")
        assert postgres is not None
        assert postgres.kind == VerifierKind.SCRAM

        told = await change(cluster, only, f"CREATE ROLE app LOGIN PASSWORD '{verifier('a')}'")
        assert find(told, "app") == RoleCredential(b"app", VerifierKind.SCRAM, verifier("a"), True)
        told = await change(cluster, only, f"ALTER ROLE app PASSWORD '{verifier('b')}'")
        assert find(told, "app") == RoleCredential(b"app", VerifierKind.SCRAM, verifier("b"), True)
        told = await change(cluster, only, "ALTER ROLE app RENAME TO renamed")
        assert (find(told, "app"), find(told, "renamed")) == (None, RoleCredential(b"renamed", "scram", verifier("b"), True))
        told = await change(cluster, only, "DROP ROLE renamed", f"CREATE ROLE renamed PASSWORD '{verifier('c')}'")
        assert find(told, "renamed") == RoleCredential(b"renamed", VerifierKind.SCRAM, verifier("c"), True), "without LOGIN too"
        told = await change(cluster, only, "ALTER ROLE renamed PASSWORD NULL")
        assert find(told, "renamed") == RoleCredential(b"renamed", VerifierKind.NONE, None, True)
        told = await change(cluster, only, "SET password_encryption = md5", "ALTER ROLE renamed PASSWORD 'x'")
        assert find(told, "renamed") == RoleCredential(b"renamed", VerifierKind.MD5, None, True), "and no hash of it"
        seen = await only.until(lambda o: o.role_notes)
        assert 'role "renamed"' in seen.role_notes[0]
        told = await change(cluster, only, "CREATE ROLE chief SUPERUSER", "GRANT chief TO renamed")
        assert find(told, "renamed") == RoleCredential(b"renamed", VerifierKind.MD5, None, False), "a membership is seen too"
        told = await change(cluster, only, "REVOKE chief FROM renamed")
        assert find(told, "renamed") == RoleCredential(b"renamed", VerifierKind.MD5, None, True)
        told = await change(cluster, only, "ALTER ROLE renamed REPLICATION")
        assert find(told, "renamed") == RoleCredential(b"renamed", VerifierKind.MD5, None, False)
        told = await change(cluster, only, "DROP ROLE renamed")
        assert find(told, "renamed") is None
        await only.until(lambda o: not o.role_notes)

        # What is rolled back was never there, and no answer says that it was.
        with contextlib.suppress(asyncpg.PostgresError):
            await execute(cluster, only, "CREATE ROLE never PASSWORD 'x'; SELECT 1/0")
        answer = await ask(only, told.version, wait_s=1)
        assert (answer.version, answer.credentials) == (told.version, None)


@pytest.mark.integration
async def test_somebody_who_locks_pg_authid_freezes_what_is_told_and_nothing_else() -> None:
    async with one_writer() as (cluster, only):
        before = await known(only)
        locker = await connect(cluster, only)
        try:
            await locker.execute(f"BEGIN; LOCK pg_authid; CREATE ROLE app PASSWORD '{verifier('a')}'")
            answer = await ask(only, wait_s=0)
            assert answer.problem == "somebody has locked pg_authid or pg_auth_members"
            assert answer.credentials == before, "the last that was seen is told"
            waiting = asyncio.create_task(ask(only, before.version, wait_s=30))
            seen = await only.until(lambda o: o.role_notes)
            assert "somebody has locked pg_authid" in seen.role_notes[0]
            assert seen.heartbeat is not None
            assert (seen.heartbeat.acknowledged_age_ms or 0) < 5_000
            await locker.execute("COMMIT")
            told = (await waiting).credentials
        finally:
            locker.terminate()
        assert told is not None
        assert find(told, "app") is not None
        await only.until(lambda o: not o.role_notes)


@pytest.mark.integration
@pytest.mark.versions
async def test_the_mock_is_postgresqls_own() -> None:
    async with one_writer() as (cluster, only):
        await execute(cluster, only, "SET password_encryption = md5; CREATE ROLE old LOGIN PASSWORD 'x'")
        roles = Roles(b"\x55" * 32)
        roles.put(await known(only))
        for name, doom in (("nobody", Doom.NO_ROLE), ("old", Doom.MD5), ("ü" * 40, Doom.NO_ROLE), ("postgres", None)):
            secret = roles.find(name)
            salt, iterations = await challenge(only, name)
            assert (secret.verifier.salt, secret.verifier.iterations, secret.doom) == (salt, iterations, doom), name


async def challenge(member: Member, user: str) -> tuple[bytes, int]:
    """Return the salt and the count that PostgreSQL shows whoever wants to log in as *user*."""
    reader, writer = await asyncio.open_connection("127.0.0.1", member.pg_port)
    try:
        writer.write(encode_startup(make_startup(user, "postgres")))
        await reader.readuntil(b"SCRAM-SHA-256\0\0")
        writer.write(sasl_initial_response("SCRAM-SHA-256", ScramClient(keys_of_password("x"), "n" * 24).first))
        head = await reader.readexactly(5)
        payload = await reader.readexactly(int.from_bytes(head[1:], "big") - 4)
    finally:
        writer.close()
    fields = dict(field.split("=", 1) for field in decode_authentication(payload).data.decode().split(","))
    return base64.b64decode(fields["s"]), int(fields["i"])


@pytest.mark.integration
async def test_only_a_proxys_token_opens_it() -> None:
    async with running_members(1) as cluster:
        (only,) = cluster.members
        tokens = {scope: f"token-of-{scope}" for scope in Scope}
        await only.stop()
        await only.start(verifiers=encode_verifiers(tokens.items()))
        for scope, token in tokens.items():
            expected = {Scope.FEED: 200, Scope.SCRAPE: 403, Scope.READ: 403}.get(scope, 401)
            async with HttpClient(f"http://127.0.0.1:{only.http_port}", token) as client:
                status = 200
                try:
                    await client.get("/v1/roles", timeout_s=5)
                except HttpRefused as refused:
                    status = refused.status
            assert status == expected, scope
        for bad in ("-1", "31", "nan", "soon", ""):
            async with only.client() as client:
                with pytest.raises(HttpRefused, match="from 0 to 30") as told:
                    await client.get(f"/v1/roles?wait_s={bad}", timeout_s=5)
                assert told.value.status == 400


@pytest.mark.integration
async def test_a_proxy_learns_roles_from_any_node_and_from_the_new_writer_after_a_failover() -> None:
    async with running_members(2) as cluster:
        await cluster.found()
        old, new = cluster.members
        await cluster.clone(new, old)
        await cluster.follow(new, old)
        await cluster.streaming(new)
        board = Switchboard(LimitSettings())
        roles = Roles(b"\x55" * 32)
        feed = RoleFeed(board, lambda: TOKEN, roles)
        async with asyncio.TaskGroup() as group:
            running = group.create_task(feed.run())
            loop = asyncio.get_running_loop()
            assert not await feed.wait_until_known(loop.time() + 0.05)
            board.set_topology(named(cluster, "n1", epoch=1))
            assert await feed.wait_until_known(loop.time() + 10)
            assert roles.find("postgres").doom is None

            # A password that was changed a moment ago: who failed with the old one looks once more.
            await execute(cluster, old, f"CREATE ROLE app LOGIN PASSWORD '{verifier('a')}'")
            assert await feed.refresh(loop.time() + 5, since=roles.find("app").version)
            before = roles.find("app")
            assert format_verifier(before.verifier) == verifier("a")
            assert not await feed.refresh(loop.time() + 5, since=before.version), "nothing has changed since"

            # The writer's noded is gone: a standby that has replayed more is believed.
            await old.stop(signal.SIGKILL)
            await execute(cluster, old, f"ALTER ROLE app PASSWORD '{verifier('b')}'")
            await until(lambda: format_verifier(roles.find("app").verifier) == verifier("b"))

            # Another writer, whose roles change: it is the one that is asked, and the old one's noded answers as well.
            await old.start()
            cluster.epoch = 2
            for node in cluster.members:
                await cluster.promise(node)
            await cluster.follow(old, new)
            await cluster.promote(new, 3)
            await execute(cluster, new, f"ALTER ROLE app PASSWORD '{verifier('c')}'")
            board.set_topology(named(cluster, "n2", epoch=2))
            await until(lambda: format_verifier(roles.find("app").verifier) == verifier("c"))
            running.cancel()


@pytest.mark.integration
async def test_a_role_made_a_moment_ago_is_waited_for_while_its_noded_is_busy() -> None:
    async with running_members(1) as cluster:
        await cluster.found()
        (only,) = cluster.members
        board, loop = Switchboard(LimitSettings()), asyncio.get_running_loop()
        feed = RoleFeed(board, lambda: TOKEN, Roles(b"\x55" * 32))
        gate = Gate({"writer": read_rules(DEFAULT_LINES)}, feed)
        async with asyncio.TaskGroup() as group:
            running = group.create_task(feed.run())
            board.set_topology(named(cluster, "n1", epoch=1))
            assert await feed.wait_until_known(loop.time() + 10)
            assert only.process is not None
            await feed.refresh(loop.time() + 5, since=feed.roles.version)
            only.process.send_signal(signal.SIGSTOP)
            try:
                await execute(cluster, only, f"CREATE ROLE app LOGIN PASSWORD '{verifier('a')}'")
                asked = group.create_task(gate.secret("app", "10.0.0.1", loop.time() + 30))
                await asyncio.wait((asked,), timeout=3 * LOOK_S)
            finally:
                only.process.send_signal(signal.SIGCONT)
            secret = await asked
            assert secret is not None
            assert format_verifier(secret.verifier) == verifier("a")
            running.cancel()


def named(cluster: Cluster, writer: str, *, epoch: int) -> Topology:
    """Return a document with *cluster*'s nodes and this *writer*."""
    members = [
        member_of(
            node.name, node.pg_port, role=Role.PRIMARY if node.name == writer else Role.STANDBY, noded_port=node.http_port
        )
        for node in cluster.members
    ]
    return document(*members, writer=writer, epoch=epoch)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.02)
