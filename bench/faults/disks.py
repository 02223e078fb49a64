"""A local cluster one of whose nodes is on a small file system of its own, which can hang or be full.

The file system is ext4 in a file, mounted where the node's directory is.  Needs root and a loop device; NotPossible says what
is missing.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from bench.faults.fault import Arena, Expectation, Fault, Stage
from deployment.local.layout import Layout
from testkit.clients.crew import CONNECTION_LOST, connected, execute
from testkit.cluster import Cluster
from testkit.not_possible import NotPossible

NODE = "n1"
SIZE_MB = 400
FILLER = "filler"


@contextlib.contextmanager
def on_small_disk(folder: Path, options: tuple[str, ...]) -> Iterator[Cluster]:
    """Start a cluster and move one node's directory to the small disk. Raises NotPossible."""
    with _mounted(folder) as disk:
        cluster = Cluster(folder / "c", options=options)
        try:
            cluster.up()
            cluster.wait_healthy(timeout_s=60.0)
            if cluster.status().writer == NODE:
                cluster.ctl("switchover")
                cluster.wait_healthy(timeout_s=60.0)
            cluster.stop_node(NODE)
            place = Layout(cluster.data_dir).node(NODE)
            shutil.copytree(place, disk, dirs_exist_ok=True, symlinks=True)
            shutil.copystat(place, disk)
            _run("mount", "--bind", str(disk), str(place))
            try:
                cluster.start_node(NODE)
                cluster.wait_healthy(timeout_s=60.0)
                yield cluster
            finally:
                cluster.down()
                _run("umount", str(place))
        finally:
            cluster.remove()


@contextlib.contextmanager
def _mounted(folder: Path) -> Iterator[Path]:
    """Make the disk and mount it."""
    if os.geteuid() != 0:
        raise NotPossible("mounting needs root")
    for tool in ("mkfs.ext4", "mount", "fsfreeze"):
        if shutil.which(tool) is None:
            raise NotPossible(f"there is no {tool}")
    image, disk = folder / "disk.img", folder / "disk"
    disk.mkdir()
    with image.open("wb") as file:
        file.truncate(SIZE_MB << 20)
    _run("mkfs.ext4", "-q", "-m", "0", str(image))
    _run("mount", "-o", "loop", str(image), str(disk))
    try:
        yield disk
    finally:
        # What still writes there ends a moment after it was told to.
        for _ in range(50):
            if subprocess.run(("umount", str(disk)), check=False, capture_output=True).returncode == 0:
                break
            time.sleep(0.2)
        image.unlink()


def _run(*arguments: str) -> None:
    done = subprocess.run(arguments, check=False, capture_output=True, text=True)
    if done.returncode != 0:
        raise NotPossible(f"{' '.join(arguments)}: {done.stderr.strip()}")


def _make_writer(arena: Arena) -> None:
    """Let the node on the small disk be the writer."""
    if arena.writer.name != NODE:
        arena.cluster.ctl("switchover", "--to", NODE)
        arena.before = arena.cluster.wait_healthy(timeout_s=60.0)
        arena.crew.wait_for_more(50, timeout_s=30.0)


def _disk(arena: Arena) -> Path:
    return arena.cluster.data_dir.parent / "disk"


@contextlib.contextmanager
def hung(arena: Arena) -> Iterator[None]:
    """Every write to the writer's disk hangs; its sockets live on."""
    _make_writer(arena)
    arena.strikes()
    _run("fsfreeze", "--freeze", str(_disk(arena)))
    try:
        yield
    finally:
        _run("fsfreeze", "--unfreeze", str(_disk(arena)))


@contextlib.contextmanager
def full(arena: Arena) -> Iterator[None]:
    """The writer's disk has no byte left, and the WAL segments that are there already are soon used up."""
    _make_writer(arena)
    filler = _disk(arena) / FILLER
    arena.strikes()
    try:
        for size in (1 << 20, 512):
            with filler.open("ab", buffering=0) as file, contextlib.suppress(OSError):
                while True:
                    file.write(b"\0" * size)
        asyncio.run(_use_segments_up(arena.cluster.dsn(NODE)))
        yield
    finally:
        filler.unlink()


async def _use_segments_up(dsn: str) -> None:
    """Switch from segment to segment until the server has no more."""
    with contextlib.suppress(*CONNECTION_LOST):
        async with asyncio.timeout(20.0), connected(dsn) as connection:
            for _ in range(100):
                await execute(connection, "SELECT pg_logical_emit_message(false, 'full', 'x')")
                await execute(connection, "SELECT pg_switch_wal()")


FAULTS = (
    Fault(
        name="disk-hangs",
        scenario=10,
        does="every write to the writer's disk hangs (fsfreeze)",
        strike=hung,
        expect=Expectation(outage_s=5.0),
        stage=Stage.DISKS,
    ),
    Fault(
        name="disk-full",
        scenario=11,
        does="no byte is left on the writer's disk",
        strike=full,
        expect=Expectation(outage_s=6.0),
        stage=Stage.DISKS,
    ),
)
