"""How a session begins: what is reported, what is refused and how."""

from __future__ import annotations

import asyncio
import os

import psycopg
from psycopg import pq

from tests.compat.programs.psycopg3.common import connect, observation


@observation
def parameters() -> object:
    names = """
        server_version server_encoding client_encoding application_name default_transaction_read_only in_hot_standby
        is_superuser session_authorization DateStyle IntervalStyle TimeZone integer_datetimes standard_conforming_strings
        search_path scram_iterations
    """
    with connect(application_name="compat") as session:
        return [(name, session.info.parameter_status(name)) for name in names.split()]


@observation
def process_number() -> object:
    with connect() as session:
        row = session.execute("select pg_backend_pid()").fetchone()
        return row is not None and row[0] == session.info.backend_pid


@observation
def transport() -> object:
    with connect() as session:
        return pq.version() // 10000, session.pgconn.ssl_in_use, session.pgconn.protocol_version, session.pgconn.used_password


@observation
def newest_protocol() -> object:
    with connect(**({"max_protocol_version": "latest"} if pq.version() >= 180000 else {})) as session:
        return session.pgconn.parameter_status(b"server_version") is not None


@observation
def channel_binding() -> object:
    more = {"require_auth": "scram-sha-256"} if pq.version() >= 160000 else {}
    with connect(channel_binding="require", **more) as session:
        return session.info.status.name


@observation
def direct_tls() -> object:
    if os.environ["COMPAT_WAY"] != "tls":
        return "skipped: only the endpoint has TLS here"
    if pq.version() < 170000:
        return "skipped: this libpq does not know it"
    with connect(sslnegotiation="direct") as session:
        return session.pgconn.ssl_in_use


@observation
def target_sessions() -> object:
    found: list[object] = []
    for wanted in ("any", "read-write", "primary", "standby", "read-only", "prefer-standby"):
        try:
            with connect(target_session_attrs=wanted):
                found.append((wanted, True))
        except psycopg.OperationalError as error:
            found.append((wanted, error.sqlstate))
    return found


@observation
def wrong_password() -> object:
    return connect(password="no")


@observation
def unknown_role() -> object:
    return connect(user="nobody at all", password="no")


@observation
def unknown_database() -> object:
    return connect(dbname="no such database")


@observation
def bad_option() -> object:
    return connect(options="-c no_such_setting=1")


@observation
def good_options() -> object:
    with connect(options="-c statement_timeout=4321 -c TimeZone=Asia/Tokyo") as session:
        return session.execute("select current_setting('statement_timeout'), current_setting('timezone')").fetchone()


@observation
def changed_parameter_is_reported() -> object:
    with connect() as session:
        session.execute("set application_name = 'another'")
        session.execute("set time zone 'Europe/Vienna'")
        return session.info.parameter_status("application_name"), session.info.parameter_status("TimeZone")


@observation
def replication_command() -> object:
    session = pq.PGconn.connect(b"replication=database")
    try:
        result = session.exec_(b"IDENTIFY_SYSTEM")
        return result.status, result.nfields, [result.fname(column) for column in range(result.nfields)]
    finally:
        session.finish()


@observation
def ping() -> object:
    """What libpq calls to ask whether a server is there."""
    return pq.PGconn.ping(b""), pq.PGconn.ping(b"user=nobody dbname=nowhere")


@observation
def many_at_once() -> object:
    async def one(number: int) -> int:
        async with await psycopg.AsyncConnection.connect(autocommit=True) as session:
            row = await (await session.execute("select %s::int", [number])).fetchone()
            assert row is not None
            return row[0]

    async def everybody() -> int:
        return sum(await asyncio.gather(*(one(number) for number in range(40))))

    return asyncio.run(everybody())
