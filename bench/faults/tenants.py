"""What a tenant does by SQL to a cluster whose writer then ends: roles, locks, slots, tablespaces, replay that is paused.

The whole list of such things is the hostile suite's (`make hostile`); these are the kinds that cost data or the writer once,
played under every kind of client.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections.abc import Iterator, Sequence
from typing import Any

import psycopg
from psycopg.conninfo import make_conninfo

from bench.faults.fault import Arena, Expectation, Fault, Missed, Strike
from testkit.clients.crew import CONNECTION_LOST, connected, execute, fetch, value
from testkit.injuries import Part

AGAIN_S = 5.0
"""In which there is a writer again."""
SWEPT_S = 30.0
"""In which dead rows can be removed after a role changed hands."""
ROWS = 20_000
OLDEST_READ_S = 3.0
"""A reader endpoint gives no new session to a replica that is older than 1 s; the rest is for a busy machine."""
SESSIONS = 20
"""New sessions on the reader endpoint, which would be spread over all replicas."""
_DEAD = re.compile(r"(\d+) are dead but not yet removable")


@contextlib.contextmanager
def vacuum_after_moves(arena: Arena) -> Iterator[None]:
    """The writer is handed over, handed over again and killed; afterwards dead rows can be removed."""
    arena.strikes()
    for _ in range(2):
        arena.cluster.ctl("switchover")
        arena.cluster.wait_healthy(timeout_s=60.0)
    writer = arena.cluster.writer()
    before = arena.cluster.status().epoch
    arena.kill(Part.POSTGRES, writer)
    arena.cluster.wait_for_epoch_after(before, timeout_s=60.0)
    yield
    arena.cluster.wait_healthy(timeout_s=60.0)
    _run(arena, "writer", "CREATE TABLE IF NOT EXISTS litter (n int) WITH (autovacuum_enabled = off)")
    _run(arena, "writer", "INSERT INTO litter SELECT generate_series(1, 1000)", "DELETE FROM litter")
    left = asyncio.run(_left_after_vacuum(arena.cluster.dsn("writer")))
    _run(arena, "writer", "DROP TABLE litter")
    if left:
        raise Missed(f"{left} dead rows cannot be removed")


async def _left_after_vacuum(dsn: str) -> int:
    said: list[str] = []
    left = -1
    async with connected(dsn) as connection:
        connection.add_notice_handler(lambda notice: said.append(notice.message_primary or ""))
        deadline = time.monotonic() + SWEPT_S
        while left != 0 and time.monotonic() < deadline:
            said.clear()
            await execute(connection, "VACUUM (VERBOSE) litter")
            found = _DEAD.search("\n".join(said))
            left = int(found[1]) if found is not None else -1
            await asyncio.sleep(0.2)
    return left


@contextlib.contextmanager
def tablespace(arena: Arena) -> Iterator[None]:
    """A tablespace outside PGDATA is made and used, and the writer dies; every server has the same rows, or it was refused."""
    parent = arena.cluster.data_dir.parent / "tablespaces"
    parent.mkdir(exist_ok=True)
    parent.chmod(0o777)
    place = parent / f"t{arena.repetition}"
    refused = False
    # By the server, because it must be its own.
    _run(arena, "writer", f"COPY (SELECT) TO PROGRAM 'mkdir {place}'")
    try:
        _run(arena, "writer", f"CREATE TABLESPACE faraway LOCATION '{place}'")
    except psycopg.Error as error:
        refused = True
        arena.notes.append(f"refused: {error.sqlstate} {error.diag.message_primary}")
    if not refused:
        _run(
            arena,
            "writer",
            "CREATE TABLE far (n int, m int) TABLESPACE faraway",
            f"INSERT INTO far SELECT n, 0 FROM generate_series(1, {ROWS}) AS n",
        )
    arena.strikes()
    if not refused:
        _run(arena, "writer", "UPDATE far SET m = m + 1", "UPDATE far SET m = m + 1")
    arena.kill(Part.POSTGRES)
    yield
    status = arena.cluster.wait_healthy(timeout_s=60.0)
    if not refused:
        _run(arena, "writer", "UPDATE far SET m = m + 1")
        for node in status.nodes:
            _until(arena, node.name, "SELECT count(*), count(DISTINCT n), min(m), max(m) FROM far", (ROWS, ROWS, 3, 3))
        _run(arena, "writer", "DROP TABLE far", "DROP TABLESPACE faraway")


def _until(arena: Arena, door: str, statement: str, wanted: tuple[int, ...]) -> None:
    """Wait until *statement* says *wanted* at *door*. Raises Missed."""
    deadline = time.monotonic() + SWEPT_S
    found: object = None
    while time.monotonic() < deadline:
        found = asyncio.run(_rows(arena.cluster.dsn(door), statement))[0]
        if found == wanted:
            return
        time.sleep(0.1)
    raise Missed(f"{door}: {statement}: {found}, not {wanted}")


@contextlib.contextmanager
def password_changed(arena: Arena) -> Iterator[None]:
    """The password of noded's role is changed by SQL, and the writer dies."""
    saved = asyncio.run(_rows(arena.cluster.dsn("writer"), "SELECT rolpassword FROM pg_authid WHERE rolname = 'endpointd'"))[0][
        0
    ]
    _run(arena, "writer", "ALTER ROLE endpointd PASSWORD 'changed'")
    arena.strikes()
    _dies(arena)
    try:
        yield
    finally:
        _run(arena, "writer", f"ALTER ROLE endpointd PASSWORD '{saved}'")


@contextlib.contextmanager
def database_set_role(arena: Arena) -> Iterator[None]:
    """Every session in postgres becomes another role by ALTER DATABASE, and the writer dies; nobody else can undo it."""
    _run(arena, "writer", "CREATE ROLE fault_app", "ALTER DATABASE postgres SET role = fault_app")
    arena.strikes()
    try:
        _dies(arena)
        yield
    finally:
        # A superuser still: the setting is not that of another database.
        _run(arena, "writer", "ALTER DATABASE postgres RESET role", "DROP ROLE fault_app", database="template1")


def catalog_locked(catalog: str) -> Strike:
    """Return the strike that locks *catalog* in an open transaction, under which the writer dies."""

    @contextlib.contextmanager
    def strike(arena: Arena) -> Iterator[None]:
        arena.strikes()
        with _holding(arena, "BEGIN", f"LOCK TABLE {catalog} IN ACCESS EXCLUSIVE MODE"):
            # Longer than a heartbeat may wait: the lock alone must move nobody.
            time.sleep(1.5)
            _dies(arena)
        yield

    return strike


@contextlib.contextmanager
def slots_kept(arena: Arena) -> Iterator[None]:
    """Slots that users made are there after a planned handover, or it was said beforehand that they would be lost."""
    _run(arena, "writer", "SELECT pg_create_physical_replication_slot('fault_archive', true)")
    logical = _tried(arena, "SELECT pg_create_logical_replication_slot('fault_stream', 'pgoutput')")
    made = {"fault_archive", *(["fault_stream"] if logical else [])}
    # Within a second or so of their making it is known what would become of them.
    arena.cluster.wait(lambda status: made <= {slot.name for slot in status.slots}, "with the slots in its status")
    told = arena.cluster.ctl("switchover", "--dry-run", check=False)
    said = told.stdout + told.stderr
    arena.strikes()
    done = arena.cluster.ctl("switchover")
    # A rehearsal that is refused because a copy is not there yet names that slot alone; the order waits, and names the rest.
    said += done.stdout + done.stderr
    yield
    try:
        arena.cluster.wait_healthy(timeout_s=60.0)
        have = {row[0] for row in asyncio.run(_rows(arena.cluster.dsn("writer"), "SELECT slot_name FROM pg_replication_slots"))}
        gone = [name for name in ("fault_archive", *(["fault_stream"] if logical else [])) if name not in have]
        untold = [name for name in gone if name not in said]
        if untold:
            raise Missed(f"{', '.join(untold)} vanished, and nobody had said so beforehand")
        arena.notes.append("every slot was kept" if not gone else f"lost as told: {', '.join(gone)}")
    finally:
        for node in arena.cluster.status().nodes:
            with contextlib.suppress(*CONNECTION_LOST):
                _run(
                    arena,
                    node.name,
                    "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name LIKE 'fault_%'",
                )


def _tried(arena: Arena, statement: str) -> bool:
    try:
        _run(arena, "writer", statement)
    except psycopg.Error as error:
        arena.notes.append(f"refused: {error.diag.message_primary}")
        return False
    return True


@contextlib.contextmanager
def replay_paused(arena: Arena) -> Iterator[None]:
    """Replay is paused on one replica; new sessions of the reader endpoint see nothing that is old."""
    paused = arena.replicas[0].name
    arena.strikes()
    _run(arena, paused, "SELECT pg_wal_replay_pause()")
    try:
        oldest_s = asyncio.run(_oldest_read_s(arena.cluster.dsn("writer"), arena.cluster.dsn("reader")))
        arena.notes.append(f"oldest read {oldest_s:.2f} s")
        if oldest_s > OLDEST_READ_S:
            raise Missed(f"a new session of the reader endpoint read what was {oldest_s:.1f} s old")
        yield
    finally:
        _run(arena, paused, "SELECT pg_wal_replay_resume()")


async def _oldest_read_s(writer: str, reader: str) -> float:
    """Write the time for a while, then read it in new sessions, and return how old the oldest was, by the writer's clock."""
    await _write(writer, "CREATE TABLE IF NOT EXISTS times (n int PRIMARY KEY, at timestamptz)")
    deadline = time.monotonic() + 2 * OLDEST_READ_S
    oldest_s = 0.0
    while time.monotonic() < deadline:
        await _write(
            writer, "INSERT INTO times VALUES (1, clock_timestamp()) ON CONFLICT (n) DO UPDATE SET at = clock_timestamp()"
        )
        await asyncio.sleep(0.1)
    for _ in range(SESSIONS):
        await _write(writer, "UPDATE times SET at = clock_timestamp()")
        async with connected(reader) as connection:
            with contextlib.suppress(psycopg.errors.UndefinedTable):
                age_s = await value(connection, "SELECT extract(epoch FROM clock_timestamp() - at)::float8 FROM times")
                oldest_s = max(oldest_s, age_s if age_s is not None else 2 * OLDEST_READ_S)
                continue
            # The table is not there yet: the replica stands where it stood before.
            oldest_s = max(oldest_s, 2 * OLDEST_READ_S)
    await _write(writer, "DROP TABLE times")
    return oldest_s


async def _write(dsn: str, statement: str) -> None:
    async with asyncio.timeout(20.0), connected(dsn) as connection:
        await execute(connection, statement)


def _dies(arena: Arena) -> None:
    """Kill the writer and wait for another. Raises Missed if it takes longer than it may."""
    arena.kill(Part.POSTGRES)
    try:
        arena.cluster.wait_for_epoch_after(arena.before.epoch, timeout_s=AGAIN_S)
    except TimeoutError as error:
        raise Missed(str(error)) from error


@contextlib.contextmanager
def _holding(arena: Arena, *statements: str) -> Iterator[None]:
    """Keep a session open in which *statements* were run; how it ends is nobody's concern."""
    with psycopg.connect(arena.cluster.dsn("writer"), autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement.encode())
        yield
        connection.close()


def _run(arena: Arena, door: str, *statements: str, database: str = "postgres") -> None:
    dsn = make_conninfo(arena.cluster.dsn(door), dbname=database)

    async def run() -> None:
        async with asyncio.timeout(30.0), connected(dsn) as connection:
            for statement in statements:
                await execute(connection, statement)

    asyncio.run(run())


async def _rows(dsn: str, statement: str) -> Sequence[tuple[Any, ...]]:
    async with asyncio.timeout(30.0), connected(dsn) as connection:
        return await fetch(connection, statement)


FAULTS = (
    Fault(
        name="vacuum-after-moves",
        scenario=26,
        does="two handovers and a crash; then dead rows must go",
        strike=vacuum_after_moves,
        expect=Expectation(epochs=(3, 4), outage_s=5.0),
    ),
    Fault(
        name="tablespace",
        scenario=27,
        does="a tablespace outside PGDATA, then the writer dies",
        strike=tablespace,
        expect=Expectation(),
    ),
    Fault(
        name="password-changed",
        scenario=28,
        does="noded's role gets another password, then the writer dies",
        strike=password_changed,
        expect=Expectation(outage_s=AGAIN_S),
    ),
    Fault(
        name="database-set-role",
        scenario=28,
        does="ALTER DATABASE postgres SET role, then the writer dies",
        strike=database_set_role,
        expect=Expectation(outage_s=None, recovered_s=AGAIN_S),
    ),
    *(
        Fault(
            name=f"lock-{catalog}",
            scenario=28,
            does=f"LOCK {catalog} in an open transaction, then the writer dies",
            strike=catalog_locked(catalog),
            expect=Expectation(outage_s=AGAIN_S),
        )
        for catalog in ("pg_authid", "pg_database")
    ),
    Fault(
        name="slots-kept",
        scenario=29,
        does="users' slots, and a planned handover",
        strike=slots_kept,
        expect=Expectation(outage_s=5.0),
    ),
    Fault(
        name="replay-paused",
        scenario=30,
        does="replay paused on a replica, new sessions on the reader",
        strike=replay_paused,
        expect=Expectation(moves=False, epochs=(0, 0), outage_s=2.0),
    ),
)
