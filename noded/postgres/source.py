"""Connections to another node's PostgreSQL, as the role that only nodeds know: where data is copied or WAL streamed from."""

from __future__ import annotations

from noded.postgres import conf
from noded.postgres.instance import Instance
from noded.postgres.walsender import Walsender, WalsenderError
from pgtopology.orders import Upstream

ASK_TIMEOUT_S = 5.0


def source_walsender(instance: Instance, source: Upstream, *, database: str | None = None) -> Walsender:
    """Return a replication connection to *source*, not opened yet; with *database* it takes SQL too."""
    return Walsender(
        source.address,
        user=conf.REPLICATION_ROLE,
        password=instance.server.replication_password,
        name="endpointd position",
        database=database,
    )


async def source_database(instance: Instance, source: Upstream) -> str:
    """Return the database in which *source* takes SQL from us: ours, if it has one. Raises WalsenderError."""
    refused: WalsenderError | None = None
    for database in (conf.DATABASE, conf.OTHER_DATABASE):
        walsender = source_walsender(instance, source, database=database)
        try:
            await walsender.ask("SELECT", timeout_s=ASK_TIMEOUT_S)
        except WalsenderError as error:
            refused = refused or error
        else:
            return database
        finally:
            walsender.close()
    assert refused is not None
    raise refused
