"""Users' replication slots: kept, carried over to the next writer, and named beforehand where that cannot be."""

from __future__ import annotations

import contextlib
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from deployment.cluster import PostgresSettings
from pgtopology.codec import decode
from pgtopology.flight import Flight
from pgtopology.handover import Rehearsal
from pgtopology.status import SlotStatus, Status
from testkit.cluster import Cluster
from tests.endpointd.servers import Postgres
from tests.integration.conftest import pg_options

pytestmark = pytest.mark.timeout(400)

DEADLINE_S = 90.0
SYNCHRONISES = 17
"""The major version from which on PostgreSQL carries logical slots over."""


@pytest.fixture(scope="module")
def logical(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster with wal_level logical."""
    made = Cluster(
        tmp_path_factory.mktemp("l") / "c",
        options=pg_options(),
        postgres=PostgresSettings(settings={"wal_level": "logical"}),
    )
    made.up()
    yield made
    made.remove()


@pytest.fixture
def publisher(logical: Cluster) -> Cluster:
    """The same, healthy, with a table t that is published."""
    logical.wait_healthy()
    execute(
        logical,
        "DROP PUBLICATION IF EXISTS p",
        "DROP TABLE IF EXISTS t",
        "CREATE TABLE t (i int PRIMARY KEY)",
        "CREATE PUBLICATION p FOR TABLE t",
    )
    return logical


@pytest.fixture
def subscriber(tmp_path: Path) -> Iterator[Postgres]:
    """A server that is no part of any cluster."""
    server = Postgres(tmp_path / "subscriber")
    server.start()
    server.sql("CREATE TABLE t (i int)")  # no key: what comes twice is seen twice
    yield server
    server.remove()


def execute(cluster: Cluster, *statements: str) -> None:
    """Run statements on the writer."""
    with psycopg.connect(cluster.dsn("writer"), autocommit=True) as writer:
        for statement in statements:
            writer.execute(statement.encode())


def major(cluster: Cluster) -> int:
    return int(str(cluster.writer().server_version).split(".")[0])


def slot(status: Status, name: str) -> SlotStatus | None:
    return next((one for one in status.slots if one.name == name), None)


def is_carried(status: Status, name: str) -> bool:
    """Whether a handover to anybody would keep the slot."""
    found = slot(status, name)
    return found is not None and not found.lost_with and not found.lost


def until(is_met: Callable[[], object], wanted: str, timeout_s: float = DEADLINE_S) -> None:
    """Wait until *is_met*. Raises AssertionError."""
    deadline = time.monotonic() + timeout_s
    while not is_met():
        assert time.monotonic() < deadline, f"not {wanted} within {timeout_s:g} s"
        time.sleep(0.1)


def make_unread_slot(cluster: Cluster, name: str, plugin: str) -> None:
    """Make a logical slot that nobody reads and that no copy is in step with; skips the test if PostgreSQL has them in step."""
    execute(cluster, f"SELECT pg_create_logical_replication_slot('{name}', '{plugin}', false, false, true)")
    until(lambda: slot(cluster.status(), name) is not None, "in status")
    time.sleep(1.0)  # in which the standbys look
    found = slot(cluster.status(), name)
    if found is None or len(found.lost_with) < 2:
        until(lambda: _dropped(cluster, name), "the slot dropped")
        pytest.skip("its copies were in step at once, as on standbys that keep rows for another slot")


def until_in_step(cluster: Cluster, name: str) -> None:
    """Wait until a handover to anybody would keep the logical slot: its reader has to move past where the copies begin."""
    until(lambda: is_carried(cluster.status(), name), f'the slot "{name}" in step on every node', timeout_s=180.0)


def subscribe(server: Postgres, cluster: Cluster, options: str) -> None:
    if "create_slot = false" not in options:
        # Of an earlier test there may be a copy, which goes after a while, on a node that has become the writer since.
        until(lambda: _dropped(cluster, "s"), "no slot of that name")
    conninfo = make_conninfo(cluster.dsn("writer")).replace("'", "''")
    server.sql(f"CREATE SUBSCRIPTION s CONNECTION '{conninfo}' PUBLICATION p WITH ({options})")


def unsubscribe(server: Postgres, cluster: Cluster) -> None:
    """End the subscription, and drop its slot wherever it is."""
    for statement in ("ALTER SUBSCRIPTION s DISABLE", "ALTER SUBSCRIPTION s SET (slot_name = NONE)", "DROP SUBSCRIPTION s"):
        server.sql(statement)
    cluster.wait_healthy()
    until(lambda: _dropped(cluster, "s"), "the subscription's slot dropped")


def _dropped(cluster: Cluster, name: str) -> bool:
    with contextlib.suppress(psycopg.Error):
        execute(cluster, f"SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = '{name}'")
        return True
    return False


def strike(cluster: Cluster, how: str) -> None:
    """Make another node the writer."""
    before = cluster.status()
    if how == "switchover":
        cluster.ctl("switchover")
    else:
        assert before.writer is not None
        cluster.kill_postgres(before.writer)
    cluster.wait_for_epoch_after(before.epoch)


def until_archived(cluster: Cluster, archive: Path) -> None:
    """Wait until some WAL is in *archive*, and a handover would lose nothing of its slot."""
    switch_segments(cluster, 2)
    until(lambda: len(segments(archive)) >= 2, "two segments archived")
    until(lambda: is_carried(cluster.status(), "archive"), "a copy of the archive's slot on every node")


def assert_archived_without_gap(cluster: Cluster, archive: Path) -> None:
    """After a handover: the archive goes on from the new writer, and every segment is there."""
    until(lambda: slot(cluster.status(), "archive") is not None, "the slot on the new writer")
    switch_segments(cluster, 2)
    reached = segment_of_the_end(cluster)
    until(lambda: segments(archive)[-1:] >= [reached - 1], "what was written afterwards archived")
    numbers = segments(archive)
    assert numbers == list(range(numbers[0], numbers[-1] + 1))


@pytest.mark.parametrize("how", [pytest.param("switchover", marks=pytest.mark.versions), "kill"])
def test_an_archive_has_no_gap_when_the_writer_changes(cluster: Cluster, tmp_path: Path, how: str) -> None:
    archive = tmp_path / "archive"
    with archived(cluster, archive):
        until_archived(cluster, archive)
        strike(cluster, how)
        assert_archived_without_gap(cluster, archive)


@contextlib.contextmanager
def archived(cluster: Cluster, archive: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Have the writer's WAL received in *archive* with a slot of its own, by what is given, and drop the slot in the end."""
    archive.mkdir()
    # Of an earlier test there may be a copy, which goes after a while, on a node that has become the writer since.
    until(lambda: _dropped(cluster, "archive"), "no slot of that name")
    execute(cluster, "SELECT pg_create_physical_replication_slot('archive', true)")
    receiver = subprocess.Popen(
        [
            cluster.pg("pg_receivewal"),
            "--dbname",
            cluster.dsn("writer"),
            "--directory",
            str(archive),
            "--slot=archive",
            "--no-sync",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield receiver
    finally:
        receiver.send_signal(signal.SIGCONT)
        receiver.terminate()
        receiver.wait(timeout=20.0)
        cluster.wait_healthy()
        until(lambda: _dropped(cluster, "archive"), "the slot dropped")


def switch_segments(cluster: Cluster, count: int) -> None:
    """Fill segments, and begin another: pg_receivewal does not go on where a timeline ends at a segment's boundary."""
    emit = "SELECT pg_logical_emit_message(true, 'x', 'y')"
    execute(cluster, *(emit, "SELECT pg_switch_wal()") * count, emit)


def segments(archive: Path) -> list[int]:
    """Return the numbers of the whole segments in *archive*, each once, whatever their timeline."""
    return sorted(
        {int(path.name[8:16], 16) * 256 + int(path.name[16:24], 16) for path in archive.iterdir() if len(path.name) == 24}
    )


def segment_of_the_end(cluster: Cluster) -> int:
    with psycopg.connect(cluster.dsn("writer")) as writer:
        row = writer.execute("SELECT (pg_current_wal_lsn() - '0/0')::int8 / pg_size_bytes(current_setting('wal_segment_size'))")
        found = row.fetchone()
    assert found is not None
    return int(found[0])


def test_a_physical_slot_without_its_client_is_kept_through_a_handover_and_goes_with_its_owner(cluster: Cluster) -> None:
    execute(cluster, "SELECT pg_create_physical_replication_slot('barman', true)")
    until(lambda: is_carried(cluster.status(), "barman"), "a copy of the slot on every node")
    before = slot(cluster.status(), "barman")
    assert before is not None
    strike(cluster, "switchover")
    cluster.wait_healthy()
    until(lambda: is_carried(cluster.status(), "barman"), "the slot on the new writer and a copy on every node")
    after = slot(cluster.status(), "barman")
    assert after is not None
    # Nothing that its client has not fetched is let go.
    assert lsn(after.restart_lsn) <= lsn(before.restart_lsn)
    execute(cluster, "SELECT pg_drop_replication_slot('barman')")
    until(lambda: slot(cluster.status(), "barman") is None, "gone")


def lsn(text: str | None) -> int:
    assert text is not None
    high, low = text.split("/")
    return int(high, 16) << 32 | int(low, 16)


def test_slots_that_a_handover_would_lose_are_named_beforehand(publisher: Cluster) -> None:
    execute(publisher, "SELECT pg_create_logical_replication_slot('lonely', 'test_decoding')")
    try:
        until(lambda: slot(publisher.status(), "lonely") is not None, "in status")
        found = slot(publisher.status(), "lonely")
        assert found is not None
        assert len(found.lost_with) == 2
        assert 'logical slot "lonely" would be lost' in " ".join(publisher.ctl("status").stdout.split())
        assert 'the logical slot "lonely" would be lost' in publisher.ctl("switchover", "--dry-run").stdout
        assert 'the logical slot "lonely" would be lost' in " ".join(publisher.ctl("drill", check=False).stdout.split())
    finally:
        execute(publisher, "SELECT pg_drop_replication_slot('lonely')")


def test_a_subscriber_that_is_slow_is_served_all_the_same(publisher: Cluster, subscriber: Postgres) -> None:
    """It once was cut off after 2 s of work, began anew, and never came further."""
    subscriber.sql(
        "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(5); RETURN NEW; END';"
        "CREATE TRIGGER slow BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION slow();"
        "ALTER TABLE t ENABLE ALWAYS TRIGGER slow"
    )
    subscribe(subscriber, publisher, "copy_data = false")
    try:
        execute(publisher, "INSERT INTO t VALUES (1)")
        until(lambda: subscriber.sql("SELECT count(*) FROM t") == "1", "one slow row applied")
        execute(publisher, "INSERT INTO t VALUES (2)")
        until(lambda: subscriber.sql("SELECT count(*) FROM t") == "2", "another slow row applied")
        assert subscriber.sql("SELECT apply_error_count FROM pg_stat_subscription_stats") == "0"
    finally:
        unsubscribe(subscriber, publisher)


@pytest.mark.parametrize("how", ["switchover", "kill"])
def test_a_subscription_goes_on_from_the_next_writer_and_neither_loses_nor_repeats_a_row(
    publisher: Cluster, subscriber: Postgres, how: str
) -> None:
    if major(publisher) < SYNCHRONISES:
        pytest.skip("PostgreSQL carries no logical slot over before 17")
    subscribe(subscriber, publisher, "failover = true, copy_data = false")
    try:
        execute(publisher, "INSERT INTO t SELECT generate_series(1, 100)")
        until_in_step(publisher, "s")
        before, dsn, acknowledged = publisher.status().epoch, publisher.dsn("writer"), 100
        strike(publisher, how)
        while publisher.status().epoch == before or acknowledged < 200:
            with contextlib.suppress(psycopg.Error), psycopg.connect(dsn, autocommit=True) as writer:
                row = writer.execute("SELECT max(i) FROM t").fetchone()
                assert row is not None
                for number in range(int(row[0]) + 1, int(row[0]) + 51):
                    writer.execute("INSERT INTO t VALUES (%s)", (number,))
                    acknowledged = number
        with psycopg.connect(dsn) as writer:
            row = writer.execute("SELECT count(*) FROM t").fetchone()
        assert row is not None
        assert int(row[0]) >= acknowledged
        until(lambda: int(subscriber.sql("SELECT count(DISTINCT i) FROM t")) >= int(row[0]), "every row applied")
        assert subscriber.sql("SELECT count(*), count(DISTINCT i), max(i) FROM t") == f"{row[0]}|{row[0]}|{row[0]}"
        publisher.wait_healthy()
        until_in_step(publisher, "s")
    finally:
        unsubscribe(subscriber, publisher)


def test_a_switchover_waits_for_a_subscribers_slot_that_was_made_a_moment_ago(publisher: Cluster, subscriber: Postgres) -> None:
    if major(publisher) < SYNCHRONISES:
        pytest.skip("PostgreSQL carries no logical slot over before 17")
    before = publisher.status()
    make_unread_slot(publisher, "s", "pgoutput")
    try:
        refused = publisher.ctl("switchover", "--no-wait", check=False)
        assert refused.returncode == 1
        assert 'slot "s"' in refused.stderr
        assert "--allow-slot-loss" in refused.stderr
        subscribe(subscriber, publisher, "create_slot = false, failover = true, copy_data = false")
        publisher.ctl("switchover", "--timeout", "90")
        assert publisher.status().writer != before.writer
        execute(publisher, "INSERT INTO t VALUES (1)")
        until(lambda: subscriber.sql("SELECT count(*) FROM t") == "1", "the subscription goes on")
    finally:
        unsubscribe(subscriber, publisher)


@pytest.mark.versions
def test_slots_that_are_never_carried_hold_no_switchover_up_and_are_named(publisher: Cluster) -> None:
    execute(publisher, "SELECT pg_create_logical_replication_slot('lonely', 'test_decoding')")
    until(lambda: slot(publisher.status(), "lonely") is not None, "in status")
    before = publisher.status()
    done = publisher.ctl("switchover")
    assert publisher.status().writer != before.writer
    assert 'warning: the logical slot "lonely" is lost' in done.stderr
    publisher.wait_healthy()


def test_an_operator_may_give_a_slot_up_that_nobody_copies(publisher: Cluster) -> None:
    """One that nobody reads comes into step only when somebody does."""
    if major(publisher) < SYNCHRONISES:
        pytest.skip("PostgreSQL carries no logical slot over before 17")
    make_unread_slot(publisher, "unread", "test_decoding")
    before = publisher.wait(lambda status: any(slot.name == "unread" for slot in status.slots), "the slot known to the manager")
    assert publisher.ctl("switchover", "--no-wait", check=False).returncode == 1
    publisher.ctl("switchover", "--allow-slot-loss")
    assert publisher.status().writer != before.writer
    publisher.wait_healthy()
    until(lambda: _dropped(publisher, "unread"), "the slot dropped, wherever it is")


def test_a_switchover_waits_for_no_archive_and_no_subscriber_and_both_have_everything(
    publisher: Cluster, subscriber: Postgres, tmp_path: Path
) -> None:
    """They stream as long as their server runs: whoever waits for them uses up all the time that transactions are given."""
    carried = major(publisher) >= SYNCHRONISES
    archive = tmp_path / "archive"
    with archived(publisher, archive):
        subscribe(subscriber, publisher, "failover = true, copy_data = false" if carried else "copy_data = false")
        try:
            until_archived(publisher, archive)
            if carried:
                until_in_step(publisher, "s")

            def seen() -> tuple[int | None, int | None]:
                told = decode(publisher.ctl("switchover", "--dry-run", "--json").stdout, Rehearsal)
                return told.replication_sessions, told.open_count

            until(lambda: seen() == (2, 0), "the archiver and the subscriber are seen, and nobody waits for them")
            # A node may just be logging in as a client of that kind would.
            until(lambda: "not waited for: 2" in publisher.ctl("switchover", "--dry-run").stdout, "told to people")
            before = publisher.status()
            execute(publisher, "INSERT INTO t SELECT generate_series(1, 5000)")
            publisher.ctl("switchover", "--drain-timeout", "60", timeout_s=150.0)
            after = publisher.status()
            flight = decode(publisher.ctl("explain", "--failover", str(after.epoch), "--json").stdout, Flight)
            assert (flight.kind, flight.from_node, flight.writer) == ("switchover", before.writer, after.writer)
            stop = next(one for one in flight.orders if (one.order, one.node) == ("promise", before.writer))
            assert stop.at_ms - flight.marks["published"] < 30_000, "the time for draining was used up"
            until(lambda: subscriber.sql("SELECT count(*), count(DISTINCT i) FROM t") == "5000|5000", "every row applied, once")
            assert_archived_without_gap(publisher, archive)
        finally:
            unsubscribe(subscriber, publisher)


@pytest.mark.slow
def test_an_archive_that_takes_nothing_holds_no_switchover_up_for_long(cluster: Cluster, tmp_path: Path) -> None:
    """A server that stops in good order waits for whomever it streams to, and is not waited for itself for ever."""
    archive = tmp_path / "archive"
    with archived(cluster, archive) as receiver:
        until_archived(cluster, archive)
        before = cluster.status()
        receiver.send_signal(signal.SIGSTOP)
        switch_segments(cluster, 2)
        cluster.wait_healthy()
        cluster.ctl("switchover", "--drain-timeout", "60", timeout_s=150.0)
        after = cluster.status()
        assert after.writer != before.writer, "the old writer did not stop, and was promoted again"
        flight = decode(cluster.ctl("explain", "--failover", str(after.epoch), "--json").stdout, Flight)
        stop = next(one for one in flight.orders if (one.order, one.node) == ("promise", before.writer))
        assert stop.outcome == "done"
        assert stop.at_ms - flight.marks["published"] < 30_000, "the time for draining was used up"
        receiver.send_signal(signal.SIGCONT)
        assert_archived_without_gap(cluster, archive)


def test_no_data_is_given_up_for_a_copy_while_the_writer_has_no_slot_for_it(cluster: Cluster) -> None:
    status = cluster.wait_healthy()
    standby = next(node.name for node in status.nodes if node.role == "standby")
    pgdata = cluster.data_dir / "nodes" / standby / "pgdata"
    with psycopg.connect(cluster.dsn("writer"), autocommit=True) as writer:

        def free() -> int:
            row = writer.execute(
                "SELECT current_setting('max_replication_slots')::int - count(*) FROM pg_replication_slots"
            ).fetchone()
            assert row is not None
            return row[0]

        try:
            for number in range(free()):
                writer.execute("SELECT pg_create_physical_replication_slot(%s, true)", (f"feed{number}",))
            assert free() == 0
            told = "20 of 20 replication slots are used"
            cluster.wait(lambda status: cluster.writer().replication_slots == 20, "counted")
            assert told in cluster.ctl("status").stdout
            assert told in cluster.ctl("doctor", check=False).stdout
            cluster.wait(lambda status: cluster.node(standby, status).replication_slots == 20, "copied")
            assert told in cluster.ctl("drill", check=False).stdout

            before = pgdata.stat().st_ino
            refused = cluster.ctl("node", "reinit", standby, "--yes", check=False)
            assert refused.returncode == 1
            assert "keeps its data" in refused.stderr
            assert re.search(r"drop one there \(.*feed0, ", refused.stderr)
            assert pgdata.stat().st_ino == before
        finally:
            writer.execute("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name ~ '^feed'")
    # Long before a minute: their copies are where members' slots would have to be.
    cluster.wait(lambda status: all((node.replication_slots or 20) < 10 for node in status.nodes), "dropped", timeout_s=45.0)
    cluster.ctl("node", "reinit", standby, "--yes")
    cluster.wait(lambda _: pgdata.exists() and pgdata.stat().st_ino != before, "made anew", timeout_s=60.0)
    assert cluster.wait_healthy().at_risk is None
