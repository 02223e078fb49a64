"""Small parts of noded by themselves: durable state, the process table, programs, finding PostgreSQL, health answers."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from msgspec.structs import replace

from daemonkit import proctable
from noded.data.clone import put_in_place, remove_tree
from noded.data.diverged_wal import KEPT_MAX, put_aside
from noded.files.layout import Layout
from noded.law.durable_state import DurableState, StateError
from noded.postgres import processes
from noded.postgres.binaries import BinariesError, find_binaries
from noded.postgres.postmaster import is_of_settings, last_complaint
from noded.postgres.tools import ToolError, environment, run_tool
from noded.report import patroni
from pgtopology.epoch import Epoch
from pgtopology.node import NodeName, Role
from pgtopology.observation import Heartbeat, Observation, Postmaster, PostmasterState, Receiver

N1 = NodeName("n1")

NEW_IN_19 = ("datachecksums launcher", "datachecksums worker", "syslogger", "io worker 0", "slotsync worker")
"""Processes that PostgreSQL 19 has or names anew, and their like: none of them brings WAL."""


def test_the_state_survives_and_belongs_to_one_node(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    told: list[int] = []
    state = DurableState(path, cluster="c", node=N1)
    state.on_change(lambda: told.append(state.value.promised))
    state.store(replace(state.value, promised=Epoch(7)))
    state.store(state.value)
    assert told == [7]
    assert path.stat().st_mode & 0o777 == 0o600
    assert DurableState(path, cluster="c", node=N1).value.promised == 7
    with pytest.raises(StateError, match="belongs to node"):
        DurableState(path, cluster="c", node=NodeName("n2"))


def test_a_newer_versions_state_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    path.write_text('{"format_version":99,"cluster":"c","node":"n1"}')
    with pytest.raises(StateError, match="newer version"):
        DurableState(path, cluster="c", node=N1)


def test_processes_of_a_directory_are_found_by_where_they_work(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], cwd=tmp_path, stdin=subprocess.PIPE) as process:
        try:
            assert processes.members(tmp_path) == [process.pid]
            assert process.pid in proctable.children(os.getpid())
            assert proctable.is_alive(process.pid)
            assert proctable.stat_of(process.pid) is not None
            # It has not named itself as PostgreSQL's processes do, so it might become a receiver.
            while not proctable.title(process.pid):
                time.sleep(0.001)  # it has begun its program, and has no command line yet
            assert process.pid in processes.possible_receivers(os.getpid())
            assert process.pid not in processes.receivers(os.getpid())
        finally:
            process.kill()
    assert processes.members(tmp_path) == []
    assert proctable.title(process.pid) is None
    assert proctable.stat_of(process.pid) is None


@pytest.mark.parametrize(
    ("title", "receives", "streams"),
    [
        ("postgres: n1_ab12cd: walreceiver streaming 0/402DD98", True, True),
        ("postgres: n1_ab12cd: walreceiver streaming 0/0402DD98", True, True),
        ("postgres: walreceiver", True, False),
        *((f"postgres: n1_ab12cd: {name}", False, False) for name in NEW_IN_19),
    ],
)
async def test_processes_of_postgresql_are_told_by_their_titles(title: str, receives: bool, streams: bool) -> None:
    with subprocess.Popen([title], executable=sys.executable, stdin=subprocess.PIPE) as process:  # noqa: ASYNC220 - it waits
        try:
            async with asyncio.timeout(10):
                while proctable.title(process.pid) != title:
                    await asyncio.sleep(0)
            assert (process.pid in processes.receivers(os.getpid())) is receives
            assert (process.pid in processes.possible_receivers(os.getpid())) is receives
            assert processes.is_streaming(process.pid) is streams
        finally:
            process.kill()


async def test_a_zombie_is_dead(tmp_path: Path) -> None:
    process = subprocess.Popen(["true"], cwd=tmp_path)  # noqa: ASYNC220 - it must not be reaped
    try:
        async with asyncio.timeout(5):
            while (stat := proctable.stat_of(process.pid)) is None or not stat.has_ended:
                await asyncio.sleep(0)
        assert not proctable.is_alive(process.pid)
        assert processes.members(tmp_path) == []
    finally:
        process.wait()


async def test_a_program_is_watched_fed_and_its_failure_told() -> None:
    seen: list[str] = []
    assert await run_tool(["/bin/cat"], stdin=b"hello\n", timeout_s=5, watch=seen.append) == "hello\n"
    assert seen == ["hello\n"]
    with pytest.raises(ToolError, match=r"sh failed: first; second"):
        await run_tool(["/bin/sh", "-c", "echo first; echo second >&2; exit 3"], timeout_s=5)
    with pytest.raises(ToolError, match="exit status 1"):
        await run_tool(["/bin/false"], timeout_s=5)


async def test_a_program_that_takes_too_long_is_killed_with_its_children(tmp_path: Path) -> None:
    with pytest.raises(ToolError, match="did not end"):
        await run_tool(["/bin/sh", "-c", f"cd {tmp_path}; sleep 60 & sleep 60"], timeout_s=0.5)
    async with asyncio.timeout(5):
        while processes.members(tmp_path):
            await asyncio.sleep(0)


async def test_a_program_that_was_killed_is_not_waited_for_because_of_a_child_that_it_leaves(tmp_path: Path) -> None:
    """As when the kernel, short of memory, ends pg_basebackup but not the process that streams WAL for it."""
    with pytest.raises(ToolError, match=r"sh failed: begun"):
        await run_tool(["/bin/sh", "-c", f"cd {tmp_path}; echo begun; sleep 600 & kill -9 $$"], timeout_s=60)
    async with asyncio.timeout(5):
        while processes.members(tmp_path):
            await asyncio.sleep(0)


def test_libpq_settings_of_the_environment_do_not_reach_postgresql(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGSSLMODE", "require")
    assert "PGSSLMODE" not in environment()
    assert environment()["LC_ALL"] == "C"


def test_a_named_place_is_the_only_one_tried(tmp_path: Path) -> None:
    with pytest.raises(BinariesError, match="has no postgres, initdb"):
        find_binaries(tmp_path)


@pytest.mark.parametrize(
    ("version", "said"), [("14.9", "not supported"), ("19.1", "not supported"), ("x", "cannot read the version")]
)
def test_versions_nobody_has_tried_are_refused(tmp_path: Path, version: str, said: str) -> None:
    for name in ("postgres", "initdb", "pg_basebackup", "pg_rewind", "pg_controldata"):
        path = tmp_path / name
        path.write_text(f"#!/bin/sh\necho 'postgres (PostgreSQL) {version}'\n")
        path.chmod(0o755)
    with pytest.raises(BinariesError, match=said):
        find_binaries(tmp_path)


def test_the_bundled_postgresql_is_found_and_can_be_preferred() -> None:
    found = find_binaries(prefer_bundled=True)
    assert found.directory.parent.name == "pginstall"
    assert found.command("postgres", "-V")[-2:] == [str(found.directory / "postgres"), "-V"]


async def test_a_data_directory_that_is_a_link_can_be_given_up(tmp_path: Path) -> None:
    other_disk = tmp_path / "other"
    other_disk.mkdir()
    (other_disk / "PG_VERSION").write_text("18")
    link = tmp_path / "pgdata.replaced"
    link.symlink_to(other_disk)
    await remove_tree(link)
    assert not link.is_symlink()
    assert (other_disk / "PG_VERSION").exists()
    await remove_tree(link)
    await remove_tree(other_disk)
    assert not other_disk.exists()


async def test_a_copy_takes_the_place_of_the_data_also_where_an_earlier_copy_left_what_it_replaced(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    for directory, content in ((layout.replaced, "oldest"), (layout.pgdata, "old"), (layout.partial, "new")):
        directory.mkdir()
        (directory / "PG_VERSION").write_text(content)
    await put_in_place(layout)
    assert (layout.pgdata / "PG_VERSION").read_text() == "new"
    assert (layout.replaced / "PG_VERSION").read_text() == "old"
    assert not layout.partial.exists()


def test_the_last_complaint_in_the_log_is_found(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    layout.make()
    assert last_complaint(layout.log) is None
    layout.log.write_text("LOG:  fine\n2026 [1] FATAL:  it is broken\nHINT:  mend it\n")
    assert last_complaint(layout.log) == "it is broken"


@pytest.mark.parametrize(
    ("complaint", "read_no_data", "told"),
    [
        ("could not map anonymous shared memory: Cannot allocate memory", True, True),
        ("could not create any TCP/IP sockets", True, True),
        ("could not load /etc/pg_hba.conf", False, True),
        ("could not locate a valid checkpoint record at 0/1000028", False, False),
        ("incorrect checksum in control file", True, False),
        ("database files are incompatible with server", True, False),
        ('could not write lock file "postmaster.pid": No space left on device', True, False),
    ],
)
def test_a_start_that_fails_before_data_is_read_says_nothing_of_the_data(
    complaint: str, *, read_no_data: bool, told: bool
) -> None:
    assert is_of_settings(complaint, read_no_data=read_no_data) is told


RUNNING = Postmaster(state=PostmasterState.RUNNING, pid=1)
BASE = Observation(node=N1, noded_pid=1, sequence=1, postmaster=RUNNING, data_dir="/d")
WRITER = replace(BASE, role=Role.PRIMARY, heartbeat=Heartbeat(epoch=Epoch(1), acknowledged_age_ms=100))
STREAMING = replace(BASE, role=Role.STANDBY, receiver=Receiver(running=True, streaming=True, upstream=N1))


@pytest.mark.parametrize(
    ("observation", "yes"),
    [
        (WRITER, {"/primary", "/read-write", "/read-only", "/readiness", "/health", "/liveness"}),
        (replace(WRITER, heartbeat=Heartbeat(epoch=Epoch(1), acknowledged_age_ms=700)), {"/health", "/liveness"}),
        (replace(WRITER, heartbeat=Heartbeat(epoch=Epoch(1))), {"/health", "/liveness"}),
        (replace(WRITER, heartbeat=None), {"/health", "/liveness"}),
        (STREAMING, {"/replica", "/read-only", "/readiness", "/health", "/liveness"}),
        (replace(STREAMING, receiver=None), {"/health", "/liveness"}),
        (replace(WRITER, postmaster=Postmaster(state=PostmasterState.STOPPED)), {"/liveness"}),
    ],
)
def test_load_balancers_get_the_answers_they_know(observation: Observation, yes: set[str]) -> None:
    assert {path for path in patroni.PATHS if patroni.is_yes(path, observation)} == yes
    expected = "replica" if observation.role is Role.STANDBY else "primary"
    assert patroni.health(observation).role == expected


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("0", patroni.LagLimit(bytes_max=0)),
        ("1048576", patroni.LagLimit(bytes_max=1 << 20)),
        ("16kB", patroni.LagLimit(bytes_max=16 << 10)),
        ("10MB", patroni.LagLimit(bytes_max=10 << 20)),
        ("1 GB", patroni.LagLimit(bytes_max=1 << 30)),
        ("500ms", patroni.LagLimit(ms_max=500)),
        ("1s", patroni.LagLimit(ms_max=1000)),
        ("2min", patroni.LagLimit(ms_max=120_000)),
    ],
)
def test_a_limit_of_lag_is_bytes_or_time(text: str, limit: patroni.LagLimit) -> None:
    assert patroni.parse_lag(text) == limit


@pytest.mark.parametrize("text", ["", "-1", "1.5MB", "MB", "10 parsecs", "9" * 5000, "٣", "1e9", "10MBx"])
def test_a_limit_of_lag_that_is_none_is_refused_with_what_is_accepted(text: str) -> None:
    with pytest.raises(ValueError, match="up to 15 digits"):
        patroni.parse_lag(text)


@pytest.mark.parametrize(
    ("limit", "waiting_ms", "silent_ms", "behind_bytes", "yes"),
    [
        (patroni.LagLimit(bytes_max=100), 0.0, 5.0, 100, True),
        (patroni.LagLimit(bytes_max=100), 0.0, 5.0, 101, False),
        (patroni.LagLimit(bytes_max=100), 0.0, 5.0, None, False),
        (patroni.LagLimit(ms_max=1000), 999.0, 100.0, 1 << 30, True),
        (patroni.LagLimit(ms_max=1000), 1001.0, 100.0, 0, False),
        (patroni.LagLimit(ms_max=1000), 0.0, 1150.0, 0, True),
        (patroni.LagLimit(ms_max=1000), 0.0, 1900.0, 0, False),
        (patroni.LagLimit(ms_max=1000), None, None, 0, False),
        (None, 99_999.0, 99_999.0, 1 << 40, True),
    ],
)
def test_a_replica_that_is_or_may_be_later_than_asked_for_is_none(
    limit: patroni.LagLimit | None, waiting_ms: float | None, silent_ms: float | None, behind_bytes: int | None, yes: bool
) -> None:
    observation = replace(STREAMING, replay_lag_ms=waiting_ms, upstream_silent_ms=silent_ms, behind_bytes=behind_bytes)
    for path in patroni.LAG_PATHS:
        assert patroni.is_yes(path, observation, limit) is yes
    assert patroni.is_yes("/read-only", WRITER, limit), "the writer is never late"


async def test_only_the_newest_diverged_tails_are_kept(tmp_path: Path) -> None:
    segment = tmp_path / "000000020000000000000003"
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "somebody's notes").touch()
    for number in range(KEPT_MAX + 2):
        segment.write_text(str(number))
        await put_aside([segment], kept, "n1_aaaa")
    found = sorted(path for path in kept.iterdir() if path.is_dir())
    assert [(path / segment.name).read_text() for path in found] == [str(number) for number in range(2, KEPT_MAX + 2)]
    assert (kept / "somebody's notes").exists()
