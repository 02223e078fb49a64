"""TLS at the doors, with real drivers in front and real servers behind."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import socket
import ssl
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import psycopg
import psycopg2
import pytest

from endpointd.relay.choice import why_not_native
from endpointd.wire.tls import client_context
from pgwire import startup
from pgwire.messages import query
from pgwire.startup import encode_startup, make_startup
from testkit.feedserver import feed_server
from tests.certificates import NAME, authority, client, server, trusting
from tests.endpointd.conftest import Duo, Servers
from tests.endpointd.proxies import Proxy, proxy
from tests.endpointd.servers import PASSWORD
from tests.endpointd.test_failover import connect, held, sqlstate_of, standing, value

STARTUP = encode_startup(make_startup("postgres", "postgres"))


def files(directory: Path) -> Path:
    """Write what a door and its clients need into *directory*."""
    directory.mkdir(exist_ok=True)
    for name, text in {
        "server.pem": server().pem,
        "ca.crt": authority().certificate_pem,
        "client.pem": client("certified").pem,
        "wrong.crt": authority("another").certificate_pem,
    }.items():
        (directory / name).write_text(text)
        (directory / name).chmod(0o600)
    return directory


def tables(directory: Path, mode: str = "prefer", more: str = "") -> str:
    pair = directory / "server.pem"
    return f'[tls]\nmode = "{mode}"\ncertificate = "{pair}"\nkey = "{pair}"\n{more}\n'


@asynccontextmanager
async def encrypting(
    servers: Servers, tmp_path: Path, mode: str = "prefer", more: str = "", **options: Any
) -> AsyncIterator[tuple[Proxy, Path]]:
    """Give a proxy that speaks TLS, and where its files are."""
    directory = files(tmp_path / "tls")
    settings = tables(directory, mode, more)
    async with feed_server(servers.document()) as feed, proxy(tmp_path / "p", [feed.port], more=settings, **options) as running:
        await running.wait_for_health(status="serving")
        yield running, directory


def verified(directory: Path, ca: str = "ca.crt") -> dict[str, str]:
    """Return the options by which libpq verifies everything."""
    return {"sslmode": "verify-full", "sslrootcert": str(directory / ca), "host": NAME, "hostaddr": "127.0.0.1"}


async def test_libpq_in_every_mode(servers: Servers, tmp_path: Path) -> None:
    async with encrypting(servers, tmp_path) as (running, directory):
        ca = str(directory / "ca.crt")
        modes: list[tuple[dict[str, str], bool]] = [
            ({"sslmode": "disable"}, False),
            ({"sslmode": "allow"}, False),
            ({"sslmode": "prefer"}, True),
            ({"sslmode": "require"}, True),
            ({"sslmode": "verify-ca", "sslrootcert": ca}, True),
            ({"sslmode": "verify-full", "sslrootcert": ca}, True),
            (verified(directory), True),
            ({"sslmode": "require", "sslnegotiation": "direct"}, True),
            ({**verified(directory), "sslnegotiation": "direct"}, True),
            ({"sslmode": "require", "ssl_min_protocol_version": "TLSv1.3"}, True),
            ({"sslmode": "require", "ssl_max_protocol_version": "TLSv1.2"}, True),
            ({"sslmode": "require", "channel_binding": "disable"}, True),
        ]
        for port in (running.writer_port, running.reader_port):
            for options, is_encrypted in modes:
                # The password goes by SCRAM, which the server and the client talk about through us: libpq could bind it to
                # TLS, says so, and the server accepts it because it speaks plaintext.
                async with await connect(port, user="scram", password=PASSWORD, **options) as connection:
                    assert await value(connection, "select 42") == "42"
                    [view] = [view for view in (await running.sessions()).sessions if view.user == "scram"]
                    assert (view.tls is not None) is is_encrypted, options
                    assert view.engine == ("native" if why_not_native() is None else "asyncio"), options
        for refused, why in (
            (verified(directory, "wrong.crt"), "certificate verify failed"),
            ({**verified(directory), "host": "other.example"}, "does not match host name"),
            ({"sslmode": "require", "channel_binding": "require"}, "channel binding"),
        ):
            with pytest.raises(psycopg.OperationalError, match=why):
                await connect(running.writer_port, user="scram", password=PASSWORD, **refused)
        await running.wait_for_health(sessions=0)
        assert await running.metric("endpointd_tls_handshakes_total", endpoint="writer", version="TLSv1.2") == 1
        assert await running.metric("endpointd_tls_handshakes_total", endpoint="writer", version="TLSv1.3") >= 10
        end = server().certificate.not_after.timestamp()
        assert await running.metric("endpointd_certificate_end_seconds", shown_to="clients") == end
        assert "tlsv1 alert unknown ca" in running.log.read_text()


async def test_other_drivers(servers: Servers, tmp_path: Path) -> None:
    async with encrypting(servers, tmp_path) as (running, directory):
        context = trusting()
        there: dict[str, Any] = {"user": "scram", "password": PASSWORD, "database": "postgres"}
        for direct_tls in (False, True):
            connection = await asyncpg.connect(
                host="127.0.0.1", port=running.writer_port, ssl=context, direct_tls=direct_tls, **there
            )
            assert await connection.fetchval("select 42") == 42
            await connection.close()
        with pytest.raises(ssl.SSLCertVerificationError):
            await asyncpg.connect(host="127.0.0.1", port=running.writer_port, ssl=trusting("another"), **there)
        for mode in ("disable", "prefer", "require"):
            connection = await asyncpg.connect(host="127.0.0.1", port=running.writer_port, ssl=mode, **there)
            await connection.close()

        def by_psycopg2() -> object:
            options: dict[str, Any] = verified(directory)
            with (
                contextlib.closing(
                    psycopg2.connect(port=running.writer_port, user="scram", password=PASSWORD, dbname="postgres", **options)
                ) as old,
                old.cursor() as cursor,
            ):
                cursor.execute("select 42")
                return cursor.fetchone()

        assert await asyncio.to_thread(by_psycopg2) == (42,)


async def test_where_tls_is_required_plaintext_is_refused_and_may_cancel(servers: Servers, tmp_path: Path) -> None:
    async with encrypting(servers, tmp_path, "require", 'minimum = "1.3"') as (running, directory):
        for mode in ("disable", "allow"):
            if mode == "allow":  # libpq tries again with TLS
                await (await connect(running.writer_port, sslmode=mode)).close()
                continue
            with pytest.raises(psycopg.OperationalError, match='database "postgres", no encryption') as caught:
                await connect(running.writer_port, sslmode=mode)
            assert 'no pg_hba.conf entry for host "127.0.0.1", user "postgres"' in str(caught.value)
        with pytest.raises(psycopg.OperationalError, match="protocol version"):
            await connect(running.writer_port, sslmode="require", ssl_max_protocol_version="TLSv1.2")
        async with await connect(running.writer_port, **verified(directory)) as connection:
            for cancel in (connection.cancel_safe, lambda: asyncio.to_thread(connection.cancel)):  # by TLS; in plaintext
                sleeping = asyncio.create_task(sqlstate_of(connection, "select pg_sleep(60)"))
                async with asyncio.timeout(20):
                    while not sleeping.done():
                        await cancel()
                        await asyncio.wait([sleeping], timeout=0.3)
                assert await sleeping == "57014"


async def test_client_certificates_are_verified_if_there_are_any(servers: Servers, tmp_path: Path) -> None:
    ca = tmp_path / "tls" / "ca.crt"
    async with encrypting(servers, tmp_path, more=f'client_ca = "{ca}"') as (running, directory):
        await (await connect(running.writer_port, sslmode="require")).close()
        pair = str(directory / "client.pem")
        await (await connect(running.writer_port, sslmode="require", sslcert=pair, sslkey=pair)).close()
        pair = str(directory / "server.pem")
        with pytest.raises(psycopg.OperationalError):  # it is for servers
            await connect(running.writer_port, sslmode="require", sslcert=pair, sslkey=pair)


async def test_direct_tls_without_the_protocols_name_fails(servers: Servers, tmp_path: Path) -> None:
    async with encrypting(servers, tmp_path) as (running, _):
        nameless = ssl.create_default_context(cadata=authority().certificate_pem)
        other = ssl.create_default_context(cadata=authority().certificate_pem)
        other.set_alpn_protocols(["http/1.1"])
        for context in (nameless, other):
            with pytest.raises(ssl.SSLError, match=r"(?i)no.application.protocol|1120"):
                await asyncio.open_connection("127.0.0.1", running.writer_port, ssl=context)
        await running.wait_for_health(sessions=0)
        assert "direct TLS without ALPN protocol negotiation" in running.log.read_text()


class Conversation:
    """A client that does TLS by hand."""

    def __init__(self, port: int) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port), timeout=20)
        self._context = client_context()
        self._context.load_verify_locations(cadata=authority().certificate_pem)

    def encrypt(self, before: bytes = startup.SSL_REQUEST) -> None:
        self.sock.sendall(before)
        assert self.sock.recv(1) == b"S"
        self._context.sslobject_class = ssl.SSLObject
        self.sock = self._context.wrap_socket(self.sock, server_hostname=NAME, suppress_ragged_eofs=False)

    def say(self, data: bytes) -> None:
        self.sock.sendall(data)

    def hear_all(self) -> bytes:
        """Return everything up to a goodbye. Raises ssl.SSLEOFError if the end comes without one."""
        heard = bytearray()
        while part := self.sock.recv(1 << 16):
            heard += part
        return bytes(heard)


async def test_what_somebody_put_before_tls_is_refused_inside_it(servers: Servers, tmp_path: Path) -> None:
    async with encrypting(servers, tmp_path) as (running, _):

        def play() -> bytes:
            client = Conversation(running.writer_port)
            client.encrypt(startup.SSL_REQUEST + STARTUP)
            return client.hear_all()

        said = await asyncio.to_thread(play)
        assert b"C08P01\0Mreceived unencrypted data after SSL request\0" in said

        def play_again() -> bytes:
            client = Conversation(running.writer_port)
            client.encrypt()
            client.say(startup.SSL_REQUEST)
            return client.hear_all()

        assert b"C0A000\0Munsupported frontend protocol 1234.5679" in await asyncio.to_thread(play_again)


async def test_a_client_may_end_its_direction_and_is_answered(servers: Servers, tmp_path: Path) -> None:
    async with encrypting(servers, tmp_path) as (running, _):

        def play() -> bytes:
            with socket.create_connection(("127.0.0.1", running.writer_port), timeout=20) as sock:
                sock.sendall(startup.SSL_REQUEST)
                assert sock.recv(1) == b"S"
                inside, outside = ssl.MemoryBIO(), ssl.MemoryBIO()
                tls = trusting().wrap_bio(inside, outside, server_hostname=NAME)

                def until(done: Any) -> Any:
                    while True:
                        try:
                            result = done()
                        except ssl.SSLWantReadError:
                            result = None
                        except ssl.SSLZeroReturnError:
                            return b""
                        if outside.pending:
                            sock.sendall(outside.read())
                        if result is not None:
                            return result
                        data = sock.recv(1 << 16)
                        assert data, "cut off"
                        inside.write(data)

                until(lambda: tls.do_handshake() or True)
                tls.write(STARTUP)
                heard = b""
                while b"Z\0\0\0\5I" not in heard:
                    heard += until(lambda: tls.read(1 << 16))
                tls.write(query("select repeat('x', 1000000)"))
                with contextlib.suppress(ssl.SSLWantReadError):
                    tls.unwrap()
                heard = b""
                while part := until(lambda: tls.read(1 << 16)):
                    heard += part
                return heard

        heard = await asyncio.to_thread(play)
        assert b"x" * 1_000_000 in heard
        assert heard.endswith(b"Z\0\0\0\5I")


async def test_handshakes_that_do_not_go_on_count_as_strangers_and_are_ended(tmp_path: Path) -> None:
    settings = tables(files(tmp_path / "tls"))
    async with (
        feed_server() as feed,
        proxy(tmp_path / "p", [feed.port], limits="startup_timeout_s = 0.5", more=settings) as running,
    ):
        began = asyncio.get_running_loop().time()
        for first in (startup.SSL_REQUEST, b"\x16\x03\x01\x02\x00\x01"):
            reader, writer = await asyncio.open_connection("127.0.0.1", running.writer_port)
            writer.write(first)
            async with asyncio.timeout(10):
                assert await reader.read() in (b"", b"S")
            writer.close()
        assert asyncio.get_running_loop().time() - began >= 0.9
        await running.wait_for_health(sessions=0)
        assert await running.metric("endpointd_startup_failures_total", endpoint="writer", reason="startup_timeout") == 2


async def test_a_failover_tells_sessions_inside_tls_and_holds_newcomers(duo: Duo, tmp_path: Path) -> None:
    directory = files(tmp_path / "tls")
    async with standing(duo, tmp_path, more=tables(directory)) as (feed, running):
        idle = await connect(running.writer_port, **verified(directory))
        busy = await connect(running.writer_port, **verified(directory))
        running_statement = asyncio.create_task(sqlstate_of(busy, "select pg_sleep(60)"))
        await asyncio.sleep(0.1)
        feed.publish(duo.document(epoch=2, revision=2, noded_port=feed.port))
        await feed.wait_for_report(epoch=2)
        assert await sqlstate_of(idle) == "57P01"
        assert await running_statement in ("57P01", "08006", "08007")
        waiting = asyncio.create_task(connect(running.writer_port, **verified(directory)))
        await held(running, 1)
        duo.n1.stop()
        duo.n2.promote()
        feed.publish(duo.document(writer="n2", epoch=2, revision=3, noded_port=feed.port))
        async with await waiting as connection:
            assert await value(connection, "show port") == str(duo.n2.port)


async def test_100_mb_both_ways_and_a_client_that_reads_slowly(servers: Servers, tmp_path: Path) -> None:
    async with encrypting(servers, tmp_path) as (running, directory):
        line = b"x" * 999 + b"\n"
        async with await connect(running.writer_port, **verified(directory)) as connection:
            await connection.execute("create temp table bulk (t text)")
            async with connection.cursor().copy("copy bulk from stdin") as into:
                for _ in range(1000):
                    await into.write(line * 100)
            assert await value(connection, "select count(*), sum(length(t)) from bulk") == "100000"
            size = 0
            async with connection.cursor().copy("copy bulk to stdout") as out:
                await asyncio.sleep(1)  # meanwhile the proxy may hold so much and no more
                [view] = (await running.sessions()).sessions
                assert 0 < view.held_bytes < 1 << 19
                async for part in out:
                    size += len(part)
            assert size == 100_000_000


async def test_certificates_are_taken_up_and_sessions_stay(servers: Servers, tmp_path: Path) -> None:
    async with encrypting(servers, tmp_path) as (running, directory):
        kept = await connect(running.writer_port, **verified(directory))
        pair = directory / "server.pem"
        bad = directory / "next.pem"
        bad.write_text("nonsense")
        bad.chmod(0o600)
        bad.replace(pair)
        await running.wait_for_log("changed certificates cannot be used")
        await (await connect(running.writer_port, **verified(directory))).close()
        running.reload()
        await running.wait_for_log("reload failed, the former settings stay")
        await (await connect(running.writer_port, **verified(directory))).close()
        bad.write_text(server(of="another").pem)
        bad.chmod(0o600)
        bad.replace(pair)
        await running.wait_for_log("changed certificates taken up")
        await (await connect(running.writer_port, **verified(directory, "wrong.crt"))).close()
        with pytest.raises(psycopg.OperationalError, match="certificate verify failed"):
            await connect(running.writer_port, **verified(directory))
        running.reload(('mode = "prefer"', 'mode = "off"'))
        await running.wait_for_log("settings read anew")
        with pytest.raises(psycopg.OperationalError, match="server does not support SSL"):
            await connect(running.writer_port, sslmode="require")
        assert await value(kept, "select 42") == "42"
        await kept.close()
        assert running.log.read_text().count("changed certificates cannot be used") == 1


async def test_what_cannot_be_used_is_named_with_the_reason(servers: Servers, tmp_path: Path) -> None:
    async with encrypting(servers, tmp_path) as (running, directory):
        pair, other = directory / "server.pem", directory / "other.pem"
        config = running.config

        async def check(text: str) -> tuple[int | None, str]:
            changed = config.with_name("changed.toml")
            changed.write_text(text)
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "endpointd.daemon", "--config", changed, "--check",
                stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, cwd=Path(__file__).parents[2],
            )  # fmt: skip
            said, _ = await process.communicate()
            return process.returncode, said.decode()

        good = config.read_text()
        assert await check(good) == (0, f"{config.with_name('changed.toml')}: can be used\n")
        wrong = good.replace(f'key = "{pair}"', f'key = "{other}"')
        encrypted = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMIIB\n-----END ENCRYPTED PRIVATE KEY-----\n"
        for text, mode, why in (
            (None, 0, "the key cannot be read: No such file or directory"),
            (server().pem, 0o640, "the key is open to other users (mode 0640); expected mode 0600"),
            (server(of="another").pem, 0o600, f"the key is not that of the certificate {pair}"),
            ("nonsense", 0o600, "the key cannot be read: expected PEM"),
            (encrypted, 0o600, "the key"),
        ):
            if text is not None:
                other.write_text(text)
                other.chmod(mode)
            status, said = await check(wrong)
            assert status == 2
            assert said.startswith(f"endpointd: {other}: {why}"), said
        other.write_text(server(age_days=500).pem)
        other.chmod(0o600)
        status, said = await check(good.replace(str(pair), str(other)))
        assert status == 2
        assert said.startswith(f"endpointd: {other}: the certificate expired on "), said
        assert f"{server(age_days=500).certificate.not_after:%Y-%m-%d}" in said
        assert server(age_days=500).certificate.not_after < dt.datetime.now(dt.UTC)
        shared = tmp_path / "shared"
        shared.mkdir()
        shared.chmod(0o755)
        for path, why in (
            (tmp_path / "no" / "s", "No such file or directory"),
            (shared / "s", f"{shared} is open to other users; expected mode 0700"),
        ):
            status, said = await check(good.replace("[feed]", f'takeover = "{path}"\n[feed]'))
            assert (status, said) == (2, f"endpointd: [proxy], takeover: {path}: {why}\n")
        status, said = await check(good.replace(f"port = {running.reader_port}", f"port = {running.writer_port}"))
        assert status == 2
        assert f"endpoint writer and endpoint reader: both are to be at port {running.writer_port} of 127.0.0.1" in said
        status, said = await check(good.replace(f'key = "{pair}"', ""))
        assert (status, said) == (
            2, f'endpointd: {config.with_name("changed.toml")}: [tls], mode: "prefer" needs certificate and key\n'
        )  # fmt: skip
