"""TLS to servers: real ones that speak it, and one that does not."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pgtopology.document import Topology
from pgtopology.node import Role
from testkit.feedserver import document, feed_server, member
from tests.certificates import authority, channels, server, shake_hands
from tests.endpointd.conftest import Servers
from tests.endpointd.proxies import proxy
from tests.endpointd.servers import PASSWORD, Postgres
from tests.endpointd.test_failover import connect, sqlstate_of, value
from tests.endpointd.test_tls_clients import files, tables
from tests.versions import programs

pytestmark = pytest.mark.versions

DEBIAN = Path("/usr/lib/postgresql/15/bin")

TLS_ONLY = """
hostssl all certified 127.0.0.1/32 cert
hostssl all scram   127.0.0.1/32 scram-sha-256
hostssl all all     127.0.0.1/32 trust
"""
ENCRYPTED = "select ssl::text || ' ' || version from pg_stat_ssl where pid = pg_backend_pid()"


def with_tls() -> Path:
    """Return programs of a PostgreSQL that can speak TLS, which the bundled one cannot."""
    named = os.environ.get("ENDPOINTD_TEST_PG_BIN")
    if named is not None:
        return Path(named)
    return DEBIAN if DEBIAN.exists() else programs(18)


def certified(directory: Path) -> Postgres:
    """Return a server with a certificate of the tests' authority, which is to be started."""
    made = Postgres(directory, programs=with_tls())
    mine = {"server.crt": server().certificate_pem, "server.key": server().pem, "ca.crt": authority().certificate_pem}
    for name, text in mine.items():
        (made.data / name).write_text(text)
        (made.data / name).chmod(0o600)
        os.chown(made.data / name, made.data.stat().st_uid, made.data.stat().st_gid)
    with (made.data / "postgresql.conf").open("a") as settings:
        settings.write("ssl = on\nssl_ca_file = 'ca.crt'\n")
    return made


@pytest.fixture(scope="module")
def encrypted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    """A server that speaks TLS and takes nothing else from clients."""
    made = certified(tmp_path_factory.mktemp("tls"))
    try:
        made.start()
        made.sql("create role certified login")
        made.sql(f"create role scram login password '{PASSWORD}'")
        (made.data / "pg_hba.conf").write_text(TLS_ONLY)
        made.sql("select pg_reload_conf()")
        yield made
    finally:
        made.remove()


def led_by(postgres: Postgres, *, noded_port: int = 1) -> Topology:
    return document(member("n1", postgres.port, role=Role.PRIMARY, noded_port=noded_port), writer="n1")


@pytest.mark.parametrize("mode", ["prefer", "require", "verify"])
async def test_a_server_is_spoken_to_in_tls(encrypted: Postgres, tmp_path: Path, mode: str) -> None:
    ca = files(tmp_path / "tls") / "ca.crt"
    settings = f'[servers]\ntls = "{mode}"\nca = "{ca}"\n'
    async with feed_server(led_by(encrypted)) as feed, proxy(tmp_path / "p", [feed.port], more=settings) as running:
        await running.wait_for_health(status="serving")
        async with await connect(running.writer_port, sslmode="disable") as connection:
            assert await value(connection, ENCRYPTED) == "true TLSv1.3"
            assert await value(connection, "select length(repeat('x', 10000000))") == "10000000"
            size = 0
            async with connection.cursor().copy(
                "copy (select repeat('y', 1000) from generate_series(1, 20000)) to stdout"
            ) as out:
                async for part in out:
                    size += len(part)
            assert size == 1001 * 20_000
            async with connection.cursor() as cursor:
                await cursor.execute("create temp table t (t text)")
                async with cursor.copy("copy t from stdin") as into:
                    for _ in range(200):
                        await into.write(b"z" * 99_999 + b"\n")
            assert await value(connection, "select sum(length(t)) from t") == str(99_999 * 200)
        # The server offers to bind the login to TLS; the client does not share that, and is not told.
        async with await connect(running.writer_port, user="scram", password=PASSWORD, sslmode="disable") as connection:
            assert await value(connection, ENCRYPTED) == "true TLSv1.3"


async def test_both_legs_speak_tls_and_a_cancel_passes(encrypted: Postgres, tmp_path: Path) -> None:
    directory = files(tmp_path / "tls")
    settings = tables(directory) + f'[servers]\ntls = "verify"\nca = "{directory / "ca.crt"}"\n'
    async with feed_server(led_by(encrypted)) as feed, proxy(tmp_path / "p", [feed.port], more=settings) as running:
        await running.wait_for_health(status="serving")
        async with await connect(running.writer_port, sslmode="require") as connection:
            assert await value(connection, ENCRYPTED) == "true TLSv1.3"
            sleeping = asyncio.create_task(sqlstate_of(connection, "select pg_sleep(60)"))
            async with asyncio.timeout(20):
                while not sleeping.done():
                    await connection.cancel_safe()
                    await asyncio.wait([sleeping], timeout=0.3)
            assert await sleeping == "57014"


async def test_the_proxy_shows_servers_a_certificate_of_its_own(encrypted: Postgres, tmp_path: Path) -> None:
    directory = files(tmp_path / "tls")
    pair = directory / "client.pem"
    settings = f'[servers]\ntls = "verify"\nca = "{directory / "ca.crt"}"\ncertificate = "{pair}"\nkey = "{pair}"\n'
    async with feed_server(led_by(encrypted)) as feed, proxy(tmp_path / "p", [feed.port], more=settings) as running:
        await running.wait_for_health(status="serving")
        async with await connect(running.writer_port, user="certified") as connection:
            assert await value(connection, "select client_dn from pg_stat_ssl where pid = pg_backend_pid()") == "/CN=certified"


@pytest.mark.parametrize(
    ("tls", "why"),
    [
        ("another authority", "certificate verify failed: "),
        ("off", "no pg_hba.conf entry"),
    ],
)
async def test_a_server_that_does_not_convince_is_not_given_to_clients(
    encrypted: Postgres, tmp_path: Path, tls: str, why: str
) -> None:
    directory = files(tmp_path / "tls")
    settings = '[servers]\ntls = "off"\n'
    if tls != "off":
        settings = f'[servers]\ntls = "verify"\nca = "{directory / "wrong.crt"}"\n'
    options: dict[str, Any] = {"limits": "hold_s = 0.5", "more": settings}
    async with feed_server(led_by(encrypted)) as feed, proxy(tmp_path / "p", [feed.port], **options) as running:
        await running.wait_for_health(status="serving")
        with pytest.raises(psycopg.OperationalError) as caught:
            await connect(running.writer_port)
        if tls == "off":
            assert why in str(caught.value)
        else:
            assert "could not connect to server" in str(caught.value)
            await running.wait_for_log(why)
            assert running.log.read_text().count("TLS with a server failed") == 1


@pytest.mark.parametrize("mode", ["prefer", "require"])
async def test_a_server_without_tls_is_spoken_to_in_plaintext_only_if_that_is_allowed(
    servers: Servers, tmp_path: Path, mode: str
) -> None:
    settings: dict[str, Any] = {"limits": "hold_s = 0.5", "more": f'[servers]\ntls = "{mode}"\n'}
    async with feed_server(servers.document()) as feed, proxy(tmp_path / "p", [feed.port], **settings) as running:
        await running.wait_for_health(status="serving")
        if mode == "prefer":
            async with await connect(running.writer_port, user="scram", password=PASSWORD) as connection:
                assert await value(connection, "select 42") == "42"
            return
        with pytest.raises(psycopg.OperationalError, match="could not connect to server"):
            await connect(running.writer_port)
        await running.wait_for_log("the server does not support TLS")


def test_the_binding_of_a_server_is_that_of_its_certificate() -> None:
    client, served = channels()
    shake_hands(client, served)
    assert client.facts is not None
    assert served.facts is not None
    assert client.facts.binding == served.facts.binding == server().certificate.binding
    assert authority().certificate.binding != server().certificate.binding
