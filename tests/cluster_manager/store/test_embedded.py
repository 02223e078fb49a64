"""The embedded store beyond the contract: its files, its lock, and damage."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest

from cluster_manager.store.embedded import EmbeddedStore
from cluster_manager.store.store import LeaseLost, StoreCorrupt, StoreHeld, StoreUnavailable
from pgtopology.desired_nodes import DesiredNodes
from pgtopology.document import Topology
from pgtopology.epoch import Revision
from testkit.documents import document
from testkit.smalldisk import SmallDisk, private_mounts

ROOT = Path(__file__).parents[3]
HOLDER = """
import asyncio, sys
from pathlib import Path
from cluster_manager.store.embedded import EmbeddedStore
from cluster_manager.store.store import StoreHeld
from testkit.documents import document
async def main():
    async with EmbeddedStore(Path(sys.argv[1])) as store:
        await store.acquire("m1")
        await store.write(document(revision=1), expected=None)
        print("held", flush=True)
        await asyncio.sleep(60)
asyncio.run(main())
"""


@contextmanager
def other_manager(path: Path) -> Iterator[int]:
    """A process that holds the store at *path* until it is killed at the end of the block."""
    command = [sys.executable, "-c", HOLDER, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)}) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == "held\n"
            yield holder.pid
        finally:
            holder.kill()


async def write_on(store: EmbeddedStore) -> None:
    for revision in range(2, 1000):
        await store.write(document(revision=revision), expected=Revision(revision - 1))


async def write_first(path: Path) -> None:
    async with EmbeddedStore(path) as store:
        await store.acquire("m1")
        assert await store.write(document(revision=1), expected=None)


async def test_the_files_are_private_from_the_first_moment(tmp_path: Path) -> None:
    path = tmp_path / "manager" / "store.sqlite"
    before = os.umask(0)
    try:
        async with EmbeddedStore(path) as store:
            await store.acquire("m1")
            await store.write(document(revision=1), expected=None)
            modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
    finally:
        os.umask(before)
    assert set(modes.values()) == {0o600}
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


async def test_another_process_is_named_and_its_death_frees_the_store(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    with other_manager(path) as pid, pytest.raises(StoreHeld, match=f"process {pid} holds this store"):
        async with EmbeddedStore(path):
            pass
    async with EmbeddedStore(path) as store:
        assert (await store.acquire("m2")).held
        assert await store.read() == document(revision=1)  # acknowledged, hence there after kill -9


@pytest.mark.parametrize("content", [b"", b"x" * 10, b"not a database at all" * 1000, bytes(8192)])
async def test_a_file_that_is_no_store_is_put_aside_unless_it_is_empty(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "store.sqlite"
    path.write_bytes(content)
    if not content:
        await write_first(path)
        return
    assert await adopted(path) is None
    assert aside(path).read_bytes() == content


async def test_a_flipped_byte_in_the_document_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    await write_first(path)
    content = path.read_bytes()
    assert content.count(b'"cluster":"local"') == 1
    flipped = content.replace(b'"cluster":"local"', b'"cluster":"lokal"')
    path.write_bytes(flipped)
    assert await adopted(path) is None
    assert aside(path).read_bytes() == flipped


async def test_a_damaged_page_is_noticed_and_of_two_damaged_files_the_second_stays(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    path.write_bytes(b"garbage" * 1000)
    await write_first(path)
    content = bytearray(path.read_bytes())
    content[4096:4104] = b"\xff" * 8  # the head of the table's page
    path.write_bytes(content)
    assert await adopted(path) is None
    assert aside(path).read_bytes() == content


async def test_a_damaged_log_beside_the_store_is_no_hindrance(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    await write_first(path)
    path.with_name("store.sqlite-wal").write_bytes(b"garbage" * 1000)
    assert await adopted(path) == document(revision=1)
    assert not aside(path).exists()


async def adopted(path: Path) -> Topology | None:
    """Return what stands in the store at *path*, which takes a new document afterwards, and still has it when opened again."""
    async with EmbeddedStore(path) as store:
        found = await store.read()
        await store.acquire("m2")
        written = await store.write(document(revision=2), expected=found.revision if found is not None else None)
        assert written.written
    async with EmbeddedStore(path) as store:
        assert await store.read() == document(revision=2)
    return found


def aside(path: Path) -> Path:
    """Return where a damaged store is put."""
    return path.with_name(f"{path.name}.unreadable")


@pytest.mark.parametrize(
    ("pragma", "error"),
    [("application_id = 7", "belongs to another program"), ("user_version = 99", "written by a newer version")],
)
async def test_a_file_of_another_kind_is_not_touched(tmp_path: Path, pragma: str, error: str) -> None:
    path = tmp_path / "store.sqlite"
    await write_first(path)
    with sqlite3.connect(path) as database:
        database.execute(f"PRAGMA {pragma}")
    database.close()
    with pytest.raises(StoreCorrupt, match=error):
        async with EmbeddedStore(path):
            pass


async def test_a_file_with_foreign_tables_is_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE theirs (x)")
    database.close()
    with pytest.raises(StoreCorrupt, match="belongs to another program"):
        async with EmbeddedStore(path):
            pass


async def test_a_document_of_a_newer_format_is_not_used(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    newer = msgspec.structs.replace(document(revision=1), format_version=99)
    async with EmbeddedStore(path) as store:
        await store.acquire("m1")
        await store.write(newer, expected=None)
    with pytest.raises(StoreCorrupt, match="format_version 99 is newer"):
        async with EmbeddedStore(path):
            pass


@pytest.mark.parametrize("name", ["store.sqlite", "store.sqlite.lock"])
async def test_files_removed_under_a_manager_cost_it_the_lease(tmp_path: Path, name: str) -> None:
    async with EmbeddedStore(tmp_path / "store.sqlite") as store:
        await store.acquire("m1")
        await store.write(document(revision=1), expected=None)
        (tmp_path / name).unlink()
        with pytest.raises(LeaseLost, match="removed or replaced"):
            await store.write(document(revision=2), expected=Revision(1))
        assert not store.lease.held
    async with EmbeddedStore(tmp_path / "other.sqlite") as store:
        await store.acquire("m1")
        (tmp_path / "other.sqlite").rename(tmp_path / "moved.sqlite")
        assert not (await store.keep()).held


async def test_a_late_write_is_unknown_and_the_next_read_tells(tmp_path: Path) -> None:
    async with EmbeddedStore(tmp_path / "store.sqlite", deadline_s=0.2) as store:
        await store.acquire("m1")
        release = threading.Event()
        thread = store._thread  # pyright: ignore[reportPrivateUsage]
        assert thread is not None
        thread.submit(release.wait)  # a disk that does not answer
        with pytest.raises(StoreUnavailable, match="no answer within"):
            await store.write(document(revision=1), expected=None)
        release.set()
        assert await store.read() == document(revision=1)
        assert await anext(store.watch(None)) == document(revision=1)


async def test_a_closed_store_says_so(tmp_path: Path) -> None:
    async with EmbeddedStore(tmp_path / "store.sqlite") as store:
        pass
    with pytest.raises(StoreUnavailable, match="closed"):
        await store.read()


async def test_a_place_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreUnavailable, match=r"File exists|Not a directory"):
        async with EmbeddedStore(tmp_path / "file" / "store.sqlite"):
            pass


async def test_a_full_disk_fails_writes_keeps_what_was_written_and_ends_by_itself(tmp_path: Path) -> None:
    place = tmp_path / "manager"
    place.mkdir()
    with private_mounts(), SmallDisk(place, 1) as disk:
        path = place / "store.sqlite"
        async with EmbeddedStore(path) as store:
            await store.acquire("m1")
            await store.write(document(revision=1), expected=None)
            disk.fill()
            with pytest.raises(StoreUnavailable, match="full"):
                await write_on(store)
            written = await store.read()
            assert written is not None
            disk.free()
            following = Revision(written.revision + 1)
            assert await store.write(document(revision=following), expected=written.revision)
            disk.fill()
        async with EmbeddedStore(path) as store:
            assert await store.read() == document(revision=following), "a manager on a full disk reads what there is"
        disk.free()
        async with EmbeddedStore(path) as store:
            await store.acquire("m1")
            assert await store.write(document(revision=following + 1), expected=following)


async def test_the_desired_nodes_leave_the_file_one_that_earlier_managers_open(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    async with EmbeddedStore(path) as store:
        await store.acquire("m1")
        await store.write(document(revision=Revision(1)), expected=None)
        assert await store.read_desired() is None
    before = _layout(path)
    async with EmbeddedStore(path) as store:
        await store.acquire("m1")
        assert await store.write_desired(DesiredNodes(revision=1), expected=None)
    after = _layout(path)
    assert (before.tables, after.tables) == ({"document"}, {"document", "desired"})
    assert (after.version, after.application) == (before.version, before.application) == (1, 0x65_70_74_64)


async def test_a_damaged_record_of_desired_nodes_is_begun_anew_and_the_document_stays(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    async with EmbeddedStore(path) as store:
        await store.acquire("m1")
        await store.write(document(revision=Revision(1)), expected=None)
        await store.write_desired(DesiredNodes(revision=5), expected=None)
    _edit(path, "UPDATE desired SET content = x'00'")
    async with EmbeddedStore(path) as store:
        await store.acquire("m1")
        assert await store.read_desired() is None
        assert await store.write_desired(DesiredNodes(revision=1), expected=None)
        assert await store.read() == document(revision=Revision(1))


async def test_a_record_of_desired_nodes_of_a_newer_version_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    newer = DesiredNodes(revision=1, format_version=99)
    async with EmbeddedStore(path) as store:
        await store.acquire("m1")
        await store.write(document(revision=Revision(1)), expected=None)
        await store.write_desired(newer, expected=None)
        with pytest.raises(StoreUnavailable, match="format_version 99 is newer"):
            await store.read_desired()
        assert await store.read() == document(revision=Revision(1))
        assert not await store.write_desired(DesiredNodes(revision=1), expected=None)


@dataclass(frozen=True)
class _Layout:
    tables: set[str]
    version: int
    application: int


def _layout(path: Path) -> _Layout:
    with contextlib.closing(sqlite3.connect(path)) as database:
        return _Layout(
            tables={name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")},
            version=database.execute("PRAGMA user_version").fetchone()[0],
            application=database.execute("PRAGMA application_id").fetchone()[0],
        )


def _edit(path: Path, statement: str) -> None:
    with contextlib.closing(sqlite3.connect(path)) as database, database:
        database.execute(statement)
