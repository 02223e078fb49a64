"""Where WAL ends by the files is where a running standby says that it ends."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from noded.position.by_files import read_wal_end
from noded.postgres.binaries import Binaries, find_binaries
from pgtopology.node import Position
from pgtopology.orders import Acknowledged, StopMode, StopOrder
from tests.noded.members import Cluster, Member, running_members
from tests.noded.test_faults import pair

pytestmark = pytest.mark.integration

WORK = (
    ("INSERT INTO t SELECT repeat('x', 2000) FROM generate_series(1, 50)",),
    ("INSERT INTO t SELECT repeat('y', 100) FROM generate_series(1, 100000)",),  # several segments
    ("INSERT INTO t VALUES ('z')", "SELECT pg_switch_wal()"),
    ("CHECKPOINT", "SELECT pg_logical_emit_message(false, 'm', repeat('m', 20000000))"),  # a record longer than a segment
)


def binaries() -> Binaries:
    named = os.environ.get("ENDPOINTD_TEST_PG_BIN")
    return find_binaries(Path(named) if named else None, prefer_bundled=True)


async def promised(cluster: Cluster, member: Member) -> Position:
    """Fence *member* in a new epoch and return what it says of itself."""
    cluster.epoch += 1
    answer = await cluster.promise(member)
    while answer.position is None:
        answer = await cluster.promise(member)
    return answer.position


def check(found: Position | str, told: Position) -> None:
    """Between what is replayed and what is received lies at most the beginning of a record."""
    assert isinstance(found, Position), found
    assert found.timeline == told.timeline
    assert told.replayed_lsn <= found.lsn <= told.lsn, (found, told)


@pytest.mark.versions
async def test_the_files_tell_what_the_server_tells() -> None:
    async with running_members(2) as cluster:
        first, second = await pair(cluster)
        pgdata = second.directory / "pgdata"
        await cluster.sql(first, "CREATE TABLE t (x text)")
        for number, statements in enumerate(WORK):
            for statement in statements:
                await cluster.sql(first, statement, timeout_s=60)
            end = await cluster.wal_end(first)
            await second.until(lambda o, end=end: o.replayed_lsn is not None and o.replayed_lsn >= end)
            told = await promised(cluster, second)
            assert told.lsn >= end
            await cluster.order(StopOrder, second, Acknowledged, mode=StopMode.IMMEDIATE if number % 2 else StopMode.FAST)
            check(await read_wal_end(pgdata, binaries()), told)
            await cluster.follow(second, first)
            await cluster.streaming(second)


PAGE_BYTES = 8192
PAGE_HEADER_BYTES_MAX = 40


async def test_a_tear_is_the_end_and_a_missing_beginning_is_no_answer(tmp_path: Path) -> None:
    async with running_members(2) as cluster:
        first, second = await pair(cluster)
        await cluster.sql(first, "CREATE TABLE t (x text)")
        await cluster.sql(first, "CHECKPOINT")
        await cluster.sql(first, "INSERT INTO t SELECT repeat('x', 1000) FROM generate_series(1, 1000)")
        end = await cluster.wal_end(first)
        await second.until(lambda o: o.replayed_lsn is not None and o.replayed_lsn >= end)
        told = await promised(cluster, second)
        await cluster.order(StopOrder, second, Acknowledged, mode=StopMode.IMMEDIATE)
        copy = tmp_path / "pgdata"
        shutil.copytree(second.directory / "pgdata", copy)
        whole = await read_wal_end(copy, binaries())
        check(whole, told)
        assert isinstance(whole, Position)
        segment = copy / "pg_wal" / f"{told.timeline:08X}{0:08X}{whole.lsn >> 24:08X}"
        data = bytearray(segment.read_bytes())
        torn = (whole.lsn % len(data)) - 100
        if torn % PAGE_BYTES < PAGE_HEADER_BYTES_MAX:
            torn -= 100  # a page's header has padding, which no checksum covers
        data[torn] ^= 0xFF
        segment.write_bytes(data)
        found = await read_wal_end(copy, binaries())
        if isinstance(found, Position):
            assert found.lsn < whole.lsn
        for path in (copy / "pg_wal").iterdir():
            if len(path.name) == 24:
                path.unlink()
        assert isinstance(await read_wal_end(copy, binaries()), str)
