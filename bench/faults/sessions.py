"""What sessions and hands can do to a cluster by SQL, or by a command that hangs."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator

import psycopg

from bench.faults.fault import Arena, Missed
from testkit.clients.crew import CONNECTION_LOST, Connection, connected, execute, value
from testkit.injuries import Part

HANG_FLAG = "archive-hangs"
"""While a file of this name lies beside the cluster, its archive_command hangs."""
BY_HAND_S = 4.0
"""How long writes must go on after somebody promoted a replica."""


@contextlib.contextmanager
def cancel_storm(arena: Arena) -> Iterator[None]:
    """CancelRequests to sessions whose commit waits for a quorum that is frozen."""
    dsn = arena.cluster.dsn("writer")
    arena.strikes()
    with contextlib.ExitStack() as stack:
        for node in arena.replicas:
            stack.enter_context(arena.frozen(Part.NODE, node))
        told = asyncio.run(_cancel_again_and_again(dsn))
        arena.stays_stuck(1.0)
    arena.notes.append("; ".join(f"{count} x {what}" for what, count in sorted(told.items())))
    if told.get("done"):
        raise Missed(f"{told['done']} commits were called done without a quorum")
    yield


async def _cancel_again_and_again(dsn: str) -> dict[str, int]:
    told: dict[str, int] = {}

    async def one(number: int) -> None:
        what = "done"
        try:
            async with connected(dsn) as connection:
                commit = asyncio.create_task(_emit(connection, number))
                while not (await asyncio.wait([commit], timeout=0.2))[0]:
                    await connection.cancel_safe(timeout=5.0)
                await commit
        except psycopg.Error as error:
            what = error.sqlstate or type(error).__name__
        told[what] = told.get(what, 0) + 1

    async with asyncio.timeout(30.0):
        await asyncio.gather(*(one(number) for number in range(12)))
    return told


async def _emit(connection: Connection, number: int) -> None:
    await execute(connection, "SELECT pg_logical_emit_message(true, 'storm', %s)", str(number))


@contextlib.contextmanager
def archive_hangs(arena: Arena) -> Iterator[None]:
    """archive_command hangs on every node, and the writer dies."""
    flag = arena.cluster.data_dir.parent / HANG_FLAG
    flag.touch()
    flag.chmod(0o644)
    try:
        _direct(arena, arena.writer.name, "SELECT pg_switch_wal()")
        arena.strikes()
        arena.kill(Part.POSTGRES)
        yield
    finally:
        flag.unlink()


@contextlib.contextmanager
def long_query(arena: Arena) -> Iterator[None]:
    """A report holds a snapshot on every replica, a vacuum conflicts with it, and the writer dies."""
    stop = threading.Event()
    threads = [
        threading.Thread(target=_hold_snapshot, args=(arena.cluster.dsn(node.name), stop), daemon=True)
        for node in arena.replicas
    ]
    for thread in threads:
        thread.start()
    try:
        writer = arena.writer.name
        _direct(arena, writer, "CREATE TABLE IF NOT EXISTS reported AS SELECT generate_series(1, 20000) AS n")
        _direct(arena, writer, "DELETE FROM reported WHERE n % 2 = 0")
        _direct(arena, writer, "VACUUM reported")
        arena.strikes()
        arena.kill(Part.POSTGRES)
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join(10.0)
    _direct_dsn(arena.cluster.dsn("writer"), "DROP TABLE IF EXISTS reported")


def _hold_snapshot(dsn: str, stop: threading.Event) -> None:
    async def hold() -> None:
        with contextlib.suppress(*CONNECTION_LOST):
            async with connected(dsn) as connection, connection.transaction():
                await execute(connection, "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
                while not stop.is_set():
                    await value(connection, "SELECT count(*) FROM pg_class, pg_sleep(0.2)")

    asyncio.run(hold())


@contextlib.contextmanager
def promoted_by_hand(arena: Arena) -> Iterator[None]:
    """Somebody promotes a replica behind the manager's back."""
    arena.strikes()
    _direct(arena, arena.replicas[0].name, "SELECT pg_promote(false)")
    arena.goes_on(BY_HAND_S)
    yield


def _direct(arena: Arena, node: str, statement: str) -> None:
    """Run a statement on a node itself."""
    _direct_dsn(arena.cluster.dsn(node), statement)


def _direct_dsn(dsn: str, statement: str) -> None:
    async def run() -> None:
        async with asyncio.timeout(20.0), connected(dsn) as connection:
            await execute(connection, statement)

    try:
        asyncio.run(run())
    except psycopg.Error as error:
        raise Missed(f"{statement}: {error}") from error
