"""What clients see through both doors, with the clients people use, on real servers."""

from __future__ import annotations

import asyncio
from collections import Counter

import asyncpg

from tests.endpointd.conftest import Stage
from tests.endpointd.servers import psql


async def test_psql_writes_through_the_writer_and_reads_from_replicas(stage: Stage) -> None:
    made = await asyncio.to_thread(
        psql, "127.0.0.1", stage.proxy.writer_port, "create table if not exists t (i int); insert into t values (1); show port"
    )
    assert made.returncode == 0, made.stderr
    assert made.stdout.split()[-1] == str(stage.servers.n1.port)
    ports: Counter[int] = Counter()
    for _ in range(6):
        read = await asyncio.to_thread(
            psql,
            "127.0.0.1",
            stage.proxy.reader_port,
            "select current_setting('port'), current_setting('transaction_read_only')",
        )
        port, read_only = read.stdout.strip().split("|")
        assert read_only == "on"
        ports[int(port)] += 1
    assert set(ports) <= {stage.servers.n2.port, stage.servers.n3.port}


async def test_asyncpg_spreads_over_the_replicas(stage: Stage) -> None:
    connections = [
        await asyncpg.connect(host="127.0.0.1", port=stage.proxy.reader_port, user="postgres", database="postgres")
        for _ in range(8)
    ]
    ports = Counter([await connection.fetchval("show port") for connection in connections])
    assert ports == {str(stage.servers.n2.port): 4, str(stage.servers.n3.port): 4}
    for connection in connections:
        await connection.close()
