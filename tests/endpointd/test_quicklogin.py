"""Logins like one before, on the short way: that they take it, and that whatever is not as usual ends as it ever did."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
import pytest_asyncio

from endpointd.relay.choice import why_not_native
from endpointd.session.quicklogin import QUICK_S
from pgwire import messages as m
from pgwire.framing import HEADER_BYTES, LENGTH_BYTES, Message, read_message
from pgwire.scram import MECHANISM, ScramClient, keys_of_password
from pgwire.startup import ACCEPTED, SSL_REQUEST, encode_cancel, encode_startup, make_startup
from tests.certificates import server
from tests.endpointd.shop import PASSWORD, PID, until
from tests.endpointd.test_failover import value
from tests.endpointd.test_warm import Scene, scene

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(why_not_native() is not None, reason=f"there is no native engine: {why_not_native()}"),
]

HELLO = encode_startup(make_startup("ann", "shop", application_name="quick"))


@pytest_asyncio.fixture(params=["plaintext", "TLS"])
async def one(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Scene]:
    tables = ""
    if request.param == "TLS":
        pair = tmp_path / "pair.pem"
        pair.write_text(server().pem)
        pair.chmod(0o600)
        tables = f'[tls]\nmode = "require"\ncertificate = "{pair}"\nkey = "{pair}"\n'
    async with scene(tmp_path, warm=tables) as made:
        made.speaks_tls = bool(tables)
        yield made


def unverified() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


async def quick(one: Scene, outcome: str) -> int:
    return int(await one.proxy.metric("endpointd_quick_logins_total", endpoint="writer", outcome=outcome))


async def until_settled(one: Scene) -> None:
    """Wait until nobody is in, and servers' ends are kept."""
    await one.proxy.wait_for_health(sessions=0)
    await until(is_kept(one), True)


def is_kept(one: Scene) -> Callable[[], Awaitable[bool]]:
    async def ask() -> bool:
        return await one.kept() > 0

    return ask


@dataclass
class Raw:
    """A client of one's own."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    password: str = PASSWORD

    async def hear(self) -> Message:
        async with asyncio.timeout(10):
            head = await self.reader.readexactly(HEADER_BYTES)
            rest = await self.reader.readexactly(int.from_bytes(head[1:]) - LENGTH_BYTES)
        found = read_message(head + rest, 0, bytes_max=1 << 20)
        assert found is not None
        return found

    async def challenged(self) -> bytes:
        """Say hello, and return the final words, which are to be said."""
        self.writer.write(HELLO)
        return await self.answer()

    async def answer(self) -> bytes:
        offer = await self.hear()
        assert m.decode_authentication(offer.payload).kind == m.AuthenticationKind.SASL
        scram = ScramClient(keys_of_password(self.password), "client-nonce-of-18-bytes")
        self.writer.write(m.sasl_initial_response(MECHANISM, scram.first))
        asked = m.decode_authentication((await self.hear()).payload)
        assert asked.kind == m.AuthenticationKind.SASL_CONTINUE
        return m.sasl_response(scram.respond(asked.data))

    async def until_ready(self) -> list[Message]:
        heard: list[Message] = []
        while not heard or heard[-1].kind != m.Backend.READY_FOR_QUERY:
            heard.append(await self.hear())
        return heard


@contextlib.asynccontextmanager
async def raw(one: Scene, password: str = PASSWORD) -> AsyncIterator[Raw]:
    reader, writer = await asyncio.open_connection("127.0.0.1", one.proxy.writer_port)
    try:
        if one.speaks_tls:
            writer.write(SSL_REQUEST)
            assert await reader.readexactly(1) == ACCEPTED
            await writer.start_tls(unverified())
        yield Raw(reader, writer, password)
    finally:
        writer.close()


async def log_in(one: Scene) -> list[Message]:
    """Log in, leave, and return what was heard from the proof on."""
    async with raw(one) as client:
        client.writer.write(await client.challenged())
        heard = await client.until_ready()
        client.writer.write(m.message(m.Frontend.TERMINATE))
    await until_settled(one)
    return heard


def kinds(heard: list[Message]) -> bytes:
    return bytes(said.kind for said in heard)


async def test_who_was_here_before_is_served_on_the_short_way_and_notices_nothing(one: Scene) -> None:
    seen = {await one.visit()}
    assert await quick(one, "begun") == 0
    for _ in range(10):
        connection = await one.come()
        pid = await value(connection, PID)
        if await quick(one, "begun"):
            break
        seen.add(pid)  # that server was still being reset
        await connection.close()
        await until_settled(one)
    else:
        pytest.fail("nobody was ever served on the short way")
    assert pid in seen
    (shown,) = (await one.proxy.sessions()).sessions
    assert (shown.state, shown.user, shown.database, shown.node, shown.is_reused) == ("relaying", "ann", "shop", "n1", True)
    assert shown.client.startswith("127.0.0.1:")
    await connection.close()
    await until_settled(one)
    ordinary, before = await log_in(one), await quick(one, "begun")
    short = await log_in(one)
    assert await quick(one, "begun") == before + 1
    assert kinds(ordinary) == kinds(short)
    told = [[said.payload for said in heard if said.kind == m.Backend.PARAMETER_STATUS] for heard in (ordinary, short)]
    assert told[0] == told[1]


async def test_the_short_way_is_also_where_a_client_goes_on_before_it_is_let_in(one: Scene) -> None:
    await log_in(one)
    async with raw(one) as client:
        client.writer.write(await client.challenged() + m.query("select 1") + m.query("select 2"))
        heard = await client.until_ready()
        assert heard[-1].payload == b"I"
        answers = await client.until_ready() + await client.until_ready()
        assert kinds(answers) == b"TDCZTDCZ"
    assert await quick(one, "begun") == 1


async def test_it_can_be_cancelled(one: Scene) -> None:
    await log_in(one)
    async with raw(one) as client:
        client.writer.write(await client.challenged())
        (key,) = (
            m.decode_backend_key(said.payload) for said in await client.until_ready() if said.kind == m.Backend.BACKEND_KEY_DATA
        )
        client.writer.write(m.query("select pg_sleep(60)"))
        assert await quick(one, "begun") == 1
        _, writer = await asyncio.open_connection("127.0.0.1", one.proxy.writer_port)
        writer.write(encode_cancel(key))
        (error,) = (said for said in await client.until_ready() if said.kind == m.Backend.ERROR_RESPONSE)
        assert m.decode_report(error.payload).sqlstate == "57014"
        writer.close()


async def test_a_wrong_password_is_refused_as_ever(one: Scene) -> None:
    await log_in(one)
    words: list[bytes] = []
    for _ in range(2):
        async with raw(one, "wrong") as client:
            client.writer.write(await client.challenged())
            words.append((await client.hear()).payload)
            assert await client.reader.read() == b""
    assert words[0] == words[1]
    assert m.decode_report(words[0]).sqlstate == "28P01"
    assert await quick(one, "given_up") >= 1
    assert await quick(one, "begun") == 0
    await one.proxy.wait_for_health(sessions=0)
    assert await one.kept() == 1


@pytest.mark.parametrize("one", ["plaintext"], indirect=True)  # where a client can say that it says no more
@pytest.mark.parametrize("what", ["garbage", "no answer to SCRAM", "a message that is too long", "an end"])
async def test_what_is_no_proof_is_answered_as_in_an_ordinary_login(one: Scene, what: str) -> None:
    said = {
        "garbage": b"\0\1\2\3\4\5\6\7",
        "no answer to SCRAM": m.query("select 1"),
        "a message that is too long": bytes((m.Frontend.AUTHENTICATION_RESPONSE,)) + (1 << 20).to_bytes(4),
        "an end": b"",
    }[what]
    answers: list[bytes] = []
    for turn in range(2):
        if turn == 1:
            await log_in(one)
        async with raw(one) as client:
            await client.challenged()
            client.writer.write(said)
            client.writer.write_eof()
            answers.append(await client.reader.read())
    assert answers[0] == answers[1]
    assert await quick(one, "given_up") == 1
    await one.proxy.wait_for_health(sessions=0)


@pytest.mark.parametrize("sslmode", ["prefer", "allow"])
async def test_who_would_rather_be_encrypted_or_rather_not_takes_it_too(one: Scene, sslmode: str) -> None:
    for _ in range(10):
        await one.visit(sslmode=sslmode)
        if await quick(one, "begun"):
            break
    else:
        pytest.fail("nobody was ever served on the short way")
    assert await quick(one, "given_up") == 0
    handshakes = await one.proxy.metric("endpointd_tls_handshakes_total", endpoint="writer", version="TLSv1.3")
    assert (handshakes > 1) is one.speaks_tls


async def test_who_does_not_encrypt_where_it_must_is_refused_as_ever(one: Scene) -> None:
    await log_in(one)
    if not one.speaks_tls:
        pytest.skip("nobody must")
    reader, writer = await asyncio.open_connection("127.0.0.1", one.proxy.writer_port)
    writer.write(HELLO)
    assert m.decode_report((await Raw(reader, writer).hear()).payload).sqlstate == "28000"
    writer.close()


async def test_whose_handshake_takes_its_time_gets_in_too(one: Scene) -> None:
    await log_in(one)
    reader, writer = await asyncio.open_connection("127.0.0.1", one.proxy.writer_port)
    if one.speaks_tls:
        writer.write(SSL_REQUEST)
        assert await reader.readexactly(1) == ACCEPTED
    await asyncio.sleep(2 * QUICK_S)
    if one.speaks_tls:
        await writer.start_tls(unverified())
    client = Raw(reader, writer)
    client.writer.write(await client.challenged())
    assert (await client.until_ready())[-1].payload == b"I"
    writer.close()


async def test_who_takes_its_time_gets_in_too(one: Scene) -> None:
    await log_in(one)
    async with raw(one) as client:
        final = await client.challenged()
        await one.proxy.wait_for_metric("endpointd_quick_logins_total", 1, endpoint="writer", outcome="given_up")
        client.writer.write(final + m.query("select 1"))
        assert (await client.until_ready())[-1].payload == b"I"
        assert kinds(await client.until_ready()) == b"TDCZ"
    await until_settled(one)


async def test_who_trickles_gets_in_too(one: Scene) -> None:
    await log_in(one)
    async with raw(one) as client:
        for pos in range(len(HELLO)):
            client.writer.write(HELLO[pos : pos + 1])
            await asyncio.sleep(0)
            await client.writer.drain()
        final = await client.answer()
        for pos in range(len(final)):
            client.writer.write(final[pos : pos + 1])
            await client.writer.drain()
        assert (await client.until_ready())[-1].payload == b"I"


async def test_who_leaves_in_the_middle_leaves_nothing_behind(one: Scene) -> None:
    await log_in(one)
    for said in (b"", HELLO[:5], HELLO):
        async with raw(one) as client:
            client.writer.write(said)
            await client.writer.drain()
    for _ in range(3):
        async with raw(one) as client:
            client.writer.write(await client.challenged())
            await client.writer.drain()
    await until_settled(one)
    assert await one.proxy.metric("endpointd_listener_connections", listener="writer", kind="stranger") == 0
    assert await one.proxy.metric("endpointd_listener_connections", listener="writer", kind="known") == 0
    assert len(await log_in(one)) > 0


async def test_a_new_password_counts_and_the_former_one_does_not(one: Scene) -> None:
    await log_in(one)
    await one.sql("alter role ann password 'another'")
    await one.until_kept(0)
    async with raw(one) as client:
        client.writer.write(await client.challenged())
        assert m.decode_report((await client.hear()).payload).sqlstate == "28P01"
    async with raw(one, "another") as client:
        client.writer.write(await client.challenged())
        await client.until_ready()


async def test_a_limit_of_its_user_counts(tmp_path: Path) -> None:
    async with scene(tmp_path, limits="per_user_max = 1") as one:
        await log_in(one)
        async with raw(one) as first:
            first.writer.write(await first.challenged())
            await first.until_ready()
            with pytest.raises(psycopg.OperationalError, match="too many connections for role"):
                await one.come(application_name="quick")
            first.writer.write(m.message(m.Frontend.TERMINATE))
        await until_settled(one)
        await log_in(one)
        assert await quick(one, "begun") == 2


async def test_who_is_about_to_be_let_in_when_the_proxy_ends_is_told(one: Scene) -> None:
    await log_in(one)
    async with raw(one) as client:
        await client.challenged()
        one.proxy.process.send_signal(signal.SIGTERM)
        assert m.decode_report((await client.hear()).payload).sqlstate == "57P01"
        assert await client.reader.read() == b""
