"""Brings a diverged data directory back to where it left the new writer's history.

standby.signal must be away while pg_rewind runs, because its single-user recovery refuses it (L7).  The diverged WAL, which
may hold commits that nobody was told of, is kept aside within bounds.  A rewind that fails leaves data that must be copied
anew; the durable state says so until a copy succeeds.
"""

from __future__ import annotations

from daemonkit.durable import fsync_dir, write_durably
from noded.data.diverged_wal import keep_diverged_wal
from noded.postgres import conf
from noded.postgres.instance import Instance
from noded.postgres.source import source_database, source_walsender
from noded.postgres.tools import ToolError, run_tool
from noded.postgres.walsender import WalEnd, Walsender, WalsenderError
from pgtopology.orders import Upstream

REWIND_TIMEOUT_S = 3600.0
CHECKPOINT_TIMEOUT_S = 300.0
ASK_TIMEOUT_S = 5.0


async def rewind(instance: Instance, source: Upstream) -> None:
    """Rewind PGDATA to *source*'s history, durable when this returns. PostgreSQL is stopped. Raises ToolError, OSError."""
    layout = instance.layout
    walsender = source_walsender(instance, source)
    try:
        database = await _checkpoint(instance, source)
        end = await _ask_source(walsender)
        await keep_diverged_wal(instance, walsender, end)
    except WalsenderError as error:
        raise ToolError(f"the source cannot be used: {error}") from error
    finally:
        walsender.close()
    layout.standby_signal.unlink(missing_ok=True)
    layout.pid_file.unlink(missing_ok=True)
    layout.auto_conf.write_bytes(b"")
    fsync_dir(layout.pgdata)
    connection = conf.conninfo(
        {
            "host": source.address.host,
            "port": str(source.address.port),
            "user": conf.REPLICATION_ROLE,
            "dbname": database,
            "passfile": str(layout.tool_passfile),
            "application_name": "endpointd rewind",
            **conf.transport(source.address.host),
            "connect_timeout": "5",
            "options": conf.WAL_OPTIONS,
        }
    )
    write_durably(layout.tool_passfile, conf.passfile_line(instance.server.replication_password, source.address))
    try:
        await run_tool(
            instance.binaries.command("pg_rewind", "--target-pgdata", str(layout.pgdata), f"--source-server={connection}"),
            timeout_s=REWIND_TIMEOUT_S,
        )
    finally:
        layout.tool_passfile.unlink(missing_ok=True)
    write_durably(layout.standby_signal, b"")
    layout.auto_conf.write_bytes(b"")


async def _checkpoint(instance: Instance, source: Upstream) -> str:
    """Have *source* write its timeline into its control file, and return the database in which it can be asked for files."""
    database = await source_database(instance, source)
    walsender = source_walsender(instance, source, database=database)
    try:
        await walsender.ask("CHECKPOINT", timeout_s=CHECKPOINT_TIMEOUT_S)
    finally:
        walsender.close()
    return database


async def _ask_source(walsender: Walsender) -> WalEnd:
    """Return the WAL end of *walsender*'s server, which must be a primary."""
    if await walsender.in_recovery(timeout_s=ASK_TIMEOUT_S):
        raise WalsenderError("it is a standby")
    return await walsender.identify(timeout_s=ASK_TIMEOUT_S)
