"""Nodes lost in every way come back unattended while clients write, by a rewind where that is allowed and else by a copy.

How long each took until it streamed and counted again is shown at the end of the run.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest

from daemonkit import proctable
from deployment.local.directory import read_plan
from deployment.local.layout import Layout
from noded.postgres import processes
from pgtopology.status import Status
from testkit.cluster import Cluster
from testkit.injuries import INJURIES, Part, frozen, inflict
from testkit.ledger import Recorder
from testkit.processes import send_all

pytestmark = pytest.mark.timeout(300)

FOREIGN = 424242
"""A row that only the lost node ever had."""


@dataclass(frozen=True, slots=True)
class Lost:
    """A node that was lost, and is left to itself from now on."""

    name: str
    at: float
    """On the monotonic clock."""


def crashed_with_wal_of_its_own(cluster: Cluster) -> Lost:
    """The writer dies with a row that nobody else has."""
    status = cluster.status()
    writer = str(status.writer)
    with _connected(cluster, writer) as connection:
        inflict(INJURIES["freeze-walsenders"], cluster, cluster.node(writer, status))
        _insert_foreign(connection)
    at = cluster.kill_postgres(writer)
    cluster.wait_for_epoch_after(status.epoch)
    return Lost(writer, at)


def rewind_killed(cluster: Cluster) -> Lost:
    """The same, and pg_rewind is killed in the middle."""
    lost = crashed_with_wal_of_its_own(cluster)
    pgdata = Layout(cluster.data_dir).pgdata(lost.name)
    _until(lambda: bool(_kill_all(_running("pg_rewind", pgdata))), "a rewind to kill")
    return lost


def noded_killed_in_a_rewind(cluster: Cluster) -> Lost:
    """The same, and its noded is killed in the middle of the rewind."""
    lost = crashed_with_wal_of_its_own(cluster)
    pgdata = Layout(cluster.data_dir).pgdata(lost.name)
    _until(lambda: bool(_running("pg_rewind", pgdata)), "a rewind under way")
    cluster.kill(lost.name)
    return lost


def wiped_while_it_was_down(cluster: Cluster) -> Lost:
    name = _standby(cluster)
    cluster.stop_node(name)
    shutil.rmtree(Layout(cluster.data_dir).pgdata(name))
    cluster.start_node(name)
    return Lost(name, time.monotonic())


def wiped_while_it_ran(cluster: Cluster) -> Lost:
    name = _standby(cluster)
    _wipe(cluster, name)
    return Lost(name, time.monotonic())


def wiped_while_it_was_the_writer(cluster: Cluster) -> Lost:
    status = cluster.status()
    _wipe(cluster, str(status.writer))
    at = time.monotonic()
    cluster.wait_for_epoch_after(status.epoch)
    return Lost(str(status.writer), at)


def away_for_too_long(cluster: Cluster) -> Lost:
    """What the writer would have kept for it is gone: its slot, and the WAL."""
    name = _standby(cluster)
    cluster.stop_node(name)
    # A slow disk takes so much WAL hard enough to look like a writer that cannot commit.
    cluster.ctl("pause")
    with _connected(cluster, str(cluster.status().writer)) as connection:
        needed = _segment(connection)
        for _ in range(24):
            connection.execute("SELECT pg_logical_emit_message(true, 'filler', 'x')")
            connection.execute("SELECT pg_switch_wal()")
        # noded makes the slot again, but what it held back goes with the next checkpoint.
        _until(lambda: _drop_slots_and_wal(connection, needed), "the WAL it needs is gone")
    cluster.ctl("resume")
    cluster.start_node(name)
    return Lost(name, time.monotonic())


def _drop_slots_and_wal(connection: psycopg.Connection[tuple[object, ...]], segment: str) -> bool:
    # That of a node which left a moment ago holds WAL too, for a minute.
    connection.execute("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE NOT active")
    connection.execute("CHECKPOINT")
    return connection.execute("SELECT count(*) FROM pg_ls_waldir() WHERE name = %s", (segment,)).fetchone() == (0,)


def promoted_by_sql(cluster: Cluster) -> Lost:
    name = _standby(cluster)
    with _connected(cluster, name) as connection:
        at = time.monotonic()
        connection.execute("SELECT pg_promote(wait => false)")
        # It is stopped within moments; whatever it still takes must not survive.
        with contextlib.suppress(psycopg.Error):
            while time.monotonic() < at + 5.0:
                with contextlib.suppress(psycopg.errors.ReadOnlySqlTransaction):
                    _insert_foreign(connection)
                    break
    return Lost(name, at)


def promoted_behind_a_frozen_noded(cluster: Cluster) -> Lost:
    """What `pg_ctl promote` does, while nobody watches; clients write to it directly."""
    name = _standby(cluster)
    node = cluster.node(name)
    assert node.pid is not None
    with frozen(cluster, Part.NODED, node):
        (Layout(cluster.data_dir).pgdata(name) / "promote").touch()
        os.kill(node.pid, signal.SIGUSR1)
        with _connected(cluster, name) as connection:
            _until(lambda: connection.execute("SELECT NOT pg_is_in_recovery()").fetchone() == (True,), "a promotion by hand")
            _insert_foreign(connection)
    return Lost(name, time.monotonic())


def noded_killed_in_a_copy(cluster: Cluster) -> Lost:
    name = _standby(cluster)
    _in_a_copy(cluster, name, lambda _: cluster.kill(name))
    return Lost(name, time.monotonic())


def killed_copy(cluster: Cluster) -> Lost:
    name = _standby(cluster)
    _in_a_copy(cluster, name, _kill_all)
    return Lost(name, time.monotonic())


def _in_a_copy(cluster: Cluster, name: str, act: Callable[[list[int]], object]) -> None:
    """Ask for a new copy of a node, and *act* on the processes that make it.

    The copy may be over before the command is; on a busy machine, before anybody has looked: then another one is asked for.
    """
    partial = Layout(cluster.data_dir).node(name) / "pgdata.partial"
    for _ in range(5):
        with ThreadPoolExecutor(1) as pool:
            asked = pool.submit(cluster.ctl, "node", "reinit", name, "--yes")
            deadline = time.monotonic() + 15.0
            while not (copying := _running("pg_basebackup", partial)) and time.monotonic() < deadline:
                time.sleep(0.001)
            if copying:
                act(copying)
            asked.result()
        if copying:
            return
        cluster.wait_healthy()
    pytest.fail("no copy was met while it was made")


def cut_off_wal(cluster: Cluster) -> Lost:
    """The newest WAL segment of a standby is cut in half."""
    name = _standby(cluster)
    cluster.stop_node(name)
    wal = Layout(cluster.data_dir).pgdata(name) / "pg_wal"
    with _connected(cluster, str(cluster.status().writer)) as connection:
        segment = wal / _segment(connection)
    if segment.exists():
        os.truncate(segment, segment.stat().st_size // 2)
    cluster.start_node(name)
    return Lost(name, time.monotonic())


def data_in_which_nothing_starts(cluster: Cluster) -> Lost:
    """A file that every server reads at its start is damaged."""
    name = _standby(cluster)
    cluster.stop_node(name)
    (Layout(cluster.data_dir).pgdata(name) / "global" / "pg_filenode.map").write_bytes(b"\xff" * 512)
    cluster.start_node(name)
    return Lost(name, time.monotonic())


def a_file_taken_from_a_running_standby(cluster: Cluster) -> Lost:
    """Its control file goes, and it is told to begin a restart."""
    name = _standby(cluster)
    (Layout(cluster.data_dir).pgdata(name) / "global" / "pg_control").unlink()
    return Lost(name, time.monotonic())


REWOUND = (crashed_with_wal_of_its_own,)
MADE_ANEW = (
    rewind_killed,
    noded_killed_in_a_rewind,
    wiped_while_it_was_down,
    wiped_while_it_ran,
    wiped_while_it_was_the_writer,
    promoted_by_sql,
    promoted_behind_a_frozen_noded,
    noded_killed_in_a_copy,
    killed_copy,
    away_for_too_long,
    data_in_which_nothing_starts,
    a_file_taken_from_a_running_standby,
)
EITHER = (cut_off_wal,)
DIVERGED = (
    crashed_with_wal_of_its_own,
    rewind_killed,
    noded_killed_in_a_rewind,
    promoted_by_sql,
    promoted_behind_a_frozen_noded,
)
"""What these had alone is kept aside."""
SLOW = (away_for_too_long, data_in_which_nothing_starts)
CASES = [pytest.param(lose, marks=pytest.mark.slow) if lose in SLOW else lose for lose in (*REWOUND, *MADE_ANEW, *EITHER)]


@pytest.mark.parametrize("lose", CASES, ids=lambda lose: lose.__name__)
def test_a_lost_node_comes_back_by_itself(
    cluster: Cluster, lose: Callable[[Cluster], Lost], tell: Callable[[str], None], request: pytest.FixtureRequest
) -> None:
    dsn = cluster.dsn("writer")
    log = Layout(cluster.data_dir).log("cluster_manager")
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS foreign_rows (n int)")
    offset = log.stat().st_size
    with Recorder(dsn) as recorder:
        recorder.wait_for_more(50, timeout_s=30.0)
        lost = lose(cluster)
        # Not at once: what is seen first may be the state before.
        cluster.wait(lambda status: not _counts(status, lost.name), f"without {lost.name}")
        cluster.wait(lambda status: _counts(status, lost.name), f"with {lost.name} again", timeout_s=120.0)
        took_s = time.monotonic() - lost.at
        recorder.wait_for_more(50, timeout_s=30.0)
        cluster.wait_healthy(timeout_s=120.0)
    way = _way_back(log.read_bytes()[offset:].decode(), lost.name)
    tell(f"{took_s:7.1f}  {way:8}  {lose.__name__.replace('_', ' ')}")
    if lose in REWOUND:
        assert way == "rewound"
    elif lose in MADE_ANEW:
        assert way == "copied"
    if lose in DIVERGED:
        assert list((Layout(cluster.data_dir).node(lost.name) / "kept").glob("*/*")), "its own WAL was not kept"
    verdict = recorder.check(dsn)
    assert verdict.is_clean, f"{verdict}; lost {verdict.lost[:10]}, fabricated {verdict.fabricated[:10]}"
    for node in cluster.status().nodes:
        with _connected(cluster, node.name) as connection:
            assert connection.execute("SELECT count(*) FROM foreign_rows").fetchone() == (0,), f"a foreign row on {node.name}"


def damage_the_control_file(node: Path) -> None:
    path = node / "pgdata" / "global" / "pg_control"
    data = bytearray(path.read_bytes())
    data[8] ^= 0xFF
    data[100] ^= 0xFF
    path.write_bytes(data)


def damage_the_state(node: Path) -> None:
    (node / "state" / "state.json").write_bytes(b'{"cluster": "lo')


def lose_the_state(node: Path) -> None:
    (node / "state" / "state.json").unlink()


@pytest.mark.parametrize(
    "damage", [damage_the_control_file, damage_the_state, lose_the_state], ids=lambda damage: damage.__name__
)
def test_what_cannot_be_vouched_for_is_quarantined_until_an_operator_has_it_made_anew(
    cluster: Cluster, damage: Callable[[Path], None], tell: Callable[[str], None]
) -> None:
    name = _standby(cluster)
    node = Layout(cluster.data_dir).node(name)
    dsn = cluster.dsn("writer")
    with Recorder(dsn) as recorder:
        recorder.wait_for_more(50, timeout_s=30.0)
        cluster.stop_node(name)
        damage(node)
        cluster.start_node(name)
        seen = cluster.wait(lambda status: "node reinit" in (cluster.node(name, status).problem or ""), f"{name} quarantined")
        assert cluster.node(name, seen).state == "stopped"
        # Neither another noded nor time makes it usable.
        old = cluster.kill(name)
        cluster.wait(lambda _: _pid_or_none(cluster, name) not in (None, old), f"{name} restarted")
        recorder.wait_for_more(500, timeout_s=60.0)
        cluster.wait(lambda status: "node reinit" in (cluster.node(name, status).problem or ""), f"{name} still quarantined")
        # Status may still tell what the former noded said; the order needs one that listens.
        cluster.until(lambda: _listens(cluster, name), f"{name} listens")
        at = time.monotonic()
        cluster.ctl("node", "reinit", name, "--yes")
        cluster.wait(lambda status: _counts(status, name), f"with {name} again", timeout_s=60.0)
        tell(f"{time.monotonic() - at:7.1f}  {'reinit':8}  {damage.__name__.replace('_', ' ')}")
        cluster.wait_healthy()
        recorder.wait_for_more(50, timeout_s=30.0)
    verdict = recorder.check(dsn)
    assert verdict.is_clean, str(verdict)
    if damage is damage_the_state:
        assert (node / "state" / "state.json.unreadable").exists()


def _way_back(said: str, name: str) -> str:
    """Return what was done about the node, by the manager's log."""
    lines = [line for line in said.splitlines() if f"node={name}" in line]
    if any("node is made anew" in line for line in lines):
        return "copied"
    return "rewound" if any("node is rewound" in line for line in lines) else "followed"


def _counts(status: Status, name: str) -> bool:
    """Return whether the node follows and its WAL counts."""
    node = next(node for node in status.nodes if node.name == name)
    return node.state in ("streaming", "running") and node.whole and node.voter and status.writer is not None


def _standby(cluster: Cluster) -> str:
    status = cluster.status()
    return next(node.name for node in status.nodes if node.name != status.writer)


def _connected(cluster: Cluster, name: str) -> psycopg.Connection[tuple[object, ...]]:
    return psycopg.connect(cluster.dsn(name), autocommit=True)


def _segment(connection: psycopg.Connection[tuple[object, ...]]) -> str:
    """Return the WAL segment that is being written."""
    row = connection.execute("SELECT pg_walfile_name(pg_current_wal_insert_lsn())").fetchone()
    assert row is not None
    return str(row[0])


def _insert_foreign(connection: psycopg.Connection[tuple[object, ...]]) -> None:
    connection.execute("SET synchronous_commit = local")
    connection.execute("INSERT INTO foreign_rows VALUES (%s)", (FOREIGN,))


def _wipe(cluster: Cluster, name: str) -> None:
    # The server makes files meanwhile.
    shutil.rmtree(Layout(cluster.data_dir).pgdata(name), ignore_errors=True)


def _running(tool: str, path: Path) -> list[int]:
    """Return the processes of *tool* that work on *path*."""
    pids = processes.tools_on(path)
    return [pid for pid in pids if (proctable.title(pid) or "").partition(" ")[0].endswith(f"/{tool}")]


def _kill_all(pids: list[int]) -> list[int]:
    send_all(pids, signal.SIGKILL)
    return pids


def _listens(cluster: Cluster, name: str) -> bool:
    """Return whether the noded of *name* accepts connections."""
    plan = read_plan(Layout(cluster.data_dir))
    assert plan is not None
    node = plan.find(name)
    assert node is not None
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", node.noded_port), timeout=5):
        return True
    return False


def _pid_or_none(cluster: Cluster, program: str) -> int | None:
    try:
        return cluster.pid_of(program)
    except (OSError, ValueError):
        return None


def _until(is_met: Callable[[], bool], wanted: str, timeout_s: float = 30.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not is_met():
        assert time.monotonic() < deadline, f"not in time: {wanted}"
        time.sleep(0.001)
