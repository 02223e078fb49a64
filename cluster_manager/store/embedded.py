"""The store of a cluster with one manager: an SQLite file beside it.

The lease is an exclusive lock on a file of its own beside the store, taken on entry and held until the process ends, however
it ends; so a second manager on the same file is refused with the first one's pid.  (Not on the store file itself: SQLite's
own locks on it would fall as soon as any other descriptor of that file is closed in this process.)  A damaged file is put
aside and a new one is begun: what nodes have seen stands in for it, as for one that was lost.  The lease is lost only when
somebody removes or replaces the files under a running manager, which every write and `keep` looks for.

SQLite keeps its write-ahead log with synchronous=FULL: a commit is one fsync.  All calls run on one thread of their own, in
order, each under a deadline; one that is late goes on there, and the next call waits for it, so a read after a write whose
outcome is unknown tells the outcome.  SQLite has no checksums; the document carries one.

The record of the desired nodes is a table of its own, made with its first row: the format stays the one that managers of an
earlier version open, who do not look at it.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import os
import sqlite3
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Literal, Self, TypeVar

import msgspec

from cluster_manager.store.store import (
    LeaseLost,
    LeaseState,
    StoreCorrupt,
    StoreDamaged,
    StoreError,
    StoreHeld,
    StoreUnavailable,
    WriteResult,
)
from daemonkit.durable import fsync_dir
from daemonkit.logs import get_logger
from pgtopology.codec import MessageError, NewerFormat, decode, encode
from pgtopology.desired_nodes import DesiredNodes
from pgtopology.document import Topology
from pgtopology.epoch import Revision

T = TypeVar("T")

FORMAT = 1
"""SQLite's user_version: the layout of the tables."""
APPLICATION_ID = 0x65_70_74_64
"""SQLite's application_id ("eptd"): tells our file from another program's."""
COLUMNS = "(only INTEGER PRIMARY KEY CHECK (only = 1), revision INTEGER NOT NULL, sha256 BLOB NOT NULL, content BLOB NOT NULL)"
"""Of a table that holds one value under compare-and-swap."""
DEADLINE_S = 5.0
"""For one call. A disk that needs longer for one fsync is not one to lead a cluster from."""
LEASE_MS = 60_000
"""What `remaining_ms` says while the lock is held. Nobody else can take it as long as this process lives."""


class EmbeddedStore:
    """The document in the SQLite file *path*. Entering makes the file if it is not there."""

    def __init__(self, path: Path, *, deadline_s: float = DEADLINE_S) -> None:
        self._path = path
        self._lock_path = path.with_name(path.name + ".lock")
        self._deadline_s = deadline_s
        self._thread: ThreadPoolExecutor | None = None
        self._database: sqlite3.Connection | None = None
        self._lock: int | None = None
        self._inodes: tuple[int, int] | None = None
        self._holder: str | None = None
        self._newest: Topology | None = None
        self._changed = asyncio.Event()

    async def __aenter__(self) -> Self:
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="store")
        try:
            self._newest = await self._call(self._open)
        except BaseException:
            await self._close_thread()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._holder = None
        await self._close_thread()

    async def read(self) -> Topology | None:
        """Return the document, or None if there has never been one."""
        document = await self._call(self._read)
        if document is not None and document != self._newest:
            self._publish(document)  # a write that came to its end after nobody waited for it any more
        return document

    async def write(self, new: Topology, *, expected: Revision | None) -> WriteResult:
        """Store *new* if the stored revision is *expected*; it has survived a crash when this returns."""
        result = await self._replace(new.revision, expected, lambda: self._write(new, expected))
        if result.written:
            self._publish(new)
        return result

    async def read_desired(self) -> DesiredNodes | None:
        """Return the record of the desired nodes, or None if there is none that can be used."""
        return await self._call(self._read_desired)

    async def write_desired(self, new: DesiredNodes, *, expected: int | None) -> bool:
        """Store the record if the stored one's revision is *expected*; it has survived a crash when this returns."""
        return await self._replace(new.revision, expected, lambda: self._write_desired(new, expected))

    async def _replace(self, revision: int, expected: int | None, work: Callable[[], T]) -> T:
        """Do *work*, which puts *revision* in the place of *expected*. Raises LeaseLost if the lease is not held."""
        if revision <= (expected or 0):
            raise ValueError(f"revision {revision} is not greater than {expected}, the one it replaces")
        if self._holder is None:
            raise LeaseLost("the lease is not held")
        try:
            return await self._call(work)
        except LeaseLost:
            self._holder = None
            raise

    async def acquire(self, holder: str) -> LeaseState:
        """Get the lease, which is ours already by the lock."""
        self._holder = holder
        return await self.keep()

    async def keep(self) -> LeaseState:
        """Look whether the files are still the ones that were locked."""
        if self._holder is not None and not await self._call(self._in_place):
            self._holder = None
        return self.lease

    @property
    def lease(self) -> LeaseState:
        """What is known of the lease."""
        held = self._holder is not None
        return LeaseState(held=held, remaining_ms=LEASE_MS if held else 0, holder=self._holder)

    async def release(self) -> None:
        """Give the lease up within this process; the lock stays until the store is closed."""
        self._holder = None

    async def watch(self, after: Revision | None) -> AsyncGenerator[Topology, None]:
        """Yield the document at each change, the newest only if several came at once."""
        while True:
            changed = self._changed
            newest = self._newest
            if newest is not None and newest.revision != after:
                after = newest.revision
                yield newest
            else:
                await changed.wait()

    def _publish(self, document: Topology) -> None:
        """Wake those who watch."""
        self._newest = document
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def _call(self, work: Callable[[], T]) -> T:
        """Run *work* on the store's thread, under the deadline."""
        if self._thread is None:
            raise StoreUnavailable(f"{self._path}: the store is closed")
        future = asyncio.get_running_loop().run_in_executor(self._thread, work)
        try:
            async with asyncio.timeout(self._deadline_s):
                # Shielded, because a write that was begun cannot be taken back: it ends on its thread, in its turn.
                return await asyncio.shield(future)
        except TimeoutError as error:
            raise StoreUnavailable(f"{self._path}: no answer within {self._deadline_s} s") from error
        except sqlite3.DatabaseError as error:
            raise _translated(self._path, error) from error
        except OSError as error:
            raise StoreUnavailable(f"{self._path}: {error.strerror or error}") from error
        finally:
            # If nobody waits for it any more, its error has nobody to go to.
            future.add_done_callback(lambda done: None if done.cancelled() else done.exception())

    async def _close_thread(self) -> None:
        """Close the file and end the thread, within the deadline."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        closing = asyncio.get_running_loop().run_in_executor(thread, self._close)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._deadline_s):
                await asyncio.shield(closing)
        thread.shutdown(wait=False)

    # What follows runs on the store's thread.

    def _open(self) -> Topology | None:
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._take_lock()
        try:
            return self._open_file()
        except sqlite3.DatabaseError as error:
            damage = _translated(self._path, error)
            if not isinstance(damage, StoreDamaged):
                raise
        except StoreDamaged as error:
            damage = error
        self._put_aside(damage)
        return self._open_file()

    def _put_aside(self, damage: StoreDamaged) -> None:
        """Move the files away from where the store is looked for; those of an earlier damage are replaced."""
        database, self._database = self._database, None
        if database is not None:
            database.close()
        aside = self._path.with_name(f"{self._path.name}.unreadable")
        for suffix in ("-wal", "-shm", ""):
            aside.with_name(aside.name + suffix).unlink(missing_ok=True)
            with contextlib.suppress(FileNotFoundError):
                self._path.with_name(self._path.name + suffix).rename(aside.with_name(aside.name + suffix))
        fsync_dir(self._path.parent)
        get_logger().error("the store cannot be used and is put aside", reason=str(damage), aside=str(aside))

    def _open_file(self) -> Topology | None:
        is_new = not self._path.exists()
        # Made here and not by SQLite, so that it is private from its first moment; its log inherits the mode.
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.fchmod(descriptor, 0o600)
        finally:
            os.close(descriptor)
        database = sqlite3.connect(self._path, isolation_level=None, timeout=1.0, check_same_thread=True)
        self._database = database
        database.execute("PRAGMA locking_mode = EXCLUSIVE")
        self._check_kind(database)
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = FULL")
        if is_new or database.execute("PRAGMA user_version").fetchone()[0] != FORMAT:
            # Only then: an open on a full disk writes nothing.
            self._make_table(database)
            fsync_dir(self._path.parent)
        self._inodes = (self._path.stat().st_ino, self._lock_path.stat().st_ino)
        return self._read()

    @staticmethod
    def _make_table(database: sqlite3.Connection) -> None:
        database.executescript(
            f"""
            BEGIN;
            CREATE TABLE IF NOT EXISTS document {COLUMNS};
            PRAGMA application_id = {APPLICATION_ID};
            PRAGMA user_version = {FORMAT};
            COMMIT;
            """
        )

    def _take_lock(self) -> None:
        """Take the lock, or raise StoreHeld with the pid of who has it."""
        lock = os.open(self._lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            pid = os.pread(lock, 32, 0).decode("ascii", "replace").strip()
            os.close(lock)
            who = f"process {pid}" if pid else "another process"
            raise StoreHeld(f"{self._path}: {who} holds this store; only one manager may use it") from error
        except OSError:
            os.close(lock)
            raise
        self._lock = lock
        with contextlib.suppress(OSError):
            # For people; a full disk does not take it, and the lock is held all the same.
            os.ftruncate(lock, 0)
            os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)

    def _check_kind(self, database: sqlite3.Connection) -> None:
        """Raise StoreCorrupt if the file is damaged, another program's, or of a newer version."""
        application: int = database.execute("PRAGMA application_id").fetchone()[0]
        version: int = database.execute("PRAGMA user_version").fetchone()[0]
        tables: int = database.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if (application, version, tables) == (0, 0, 0):
            return  # new, or its maker died before it had made the table
        if application != APPLICATION_ID:
            raise StoreCorrupt(f"{self._path}: this SQLite file belongs to another program")
        if version > FORMAT:
            raise StoreCorrupt(f"{self._path}: written by a newer version (format {version}, known here up to {FORMAT})")
        verdict: str = database.execute("PRAGMA quick_check(1)").fetchone()[0]
        if verdict != "ok":
            raise StoreDamaged(f"{self._path}: damaged: {verdict}")

    def _in_place(self) -> bool:
        try:
            return self._inodes == (self._path.stat().st_ino, self._lock_path.stat().st_ino)
        except FileNotFoundError:
            return False

    def _read(self) -> Topology | None:
        assert self._database is not None
        row: tuple[int, bytes, bytes] | None = self._database.execute(
            "SELECT revision, sha256, content FROM document"
        ).fetchone()
        if row is None:
            return None
        revision, digest, content = row
        if hashlib.sha256(content).digest() != digest:
            raise StoreDamaged(f"{self._path}: the document is damaged: its checksum differs")
        try:
            document = decode(content, Topology)
        except MessageError as error:
            raise StoreCorrupt(f"{self._path}: {error}") from error
        if document.revision != revision:
            raise StoreDamaged(f"{self._path}: the document is damaged: it is revision {document.revision}, not {revision}")
        return document

    def _write(self, new: Topology, expected: Revision | None) -> WriteResult:
        if self._swap("document", new.revision, encode(new), expected):
            return WriteResult(written=True, stored=new)
        return WriteResult(written=False, stored=self._read())

    def _swap(self, table: Literal["document", "desired"], revision: int, content: bytes, expected: int | None) -> bool:
        """Put *content* into *table* if *expected* is what is there, and return whether it was. Raises LeaseLost."""
        assert self._database is not None
        if not self._in_place():
            raise LeaseLost(f"{self._path}: the store was removed or replaced while it was in use")
        row = (revision, hashlib.sha256(content).digest(), content)
        # One statement is one transaction, and it compares and swaps at once.
        if expected is None:
            insert = f"INSERT INTO {table} VALUES (1, ?, ?, ?) ON CONFLICT DO NOTHING"  # noqa: S608 - one of two names
            return self._database.execute(insert, row).rowcount == 1
        update = f"UPDATE {table} SET revision = ?, sha256 = ?, content = ? WHERE revision = ?"  # noqa: S608 - as above
        return self._database.execute(update, (*row, expected)).rowcount == 1

    def _read_desired(self) -> DesiredNodes | None:
        row = self._desired_row()
        if row is None:
            return None
        revision, digest, content = row
        try:
            if hashlib.sha256(content).digest() != digest:
                raise MessageError("its checksum differs")
            record = decode(content, DesiredNodes)
        except NewerFormat as error:
            raise StoreUnavailable(f"{self._path}: the record of the desired nodes: {error}") from error
        except MessageError as error:
            # No data depends on it: what it said of nodes that are there is in the settings, and an order can be given again.
            get_logger().error("the record of the desired nodes is damaged and is begun anew", reason=str(error))
            assert self._database is not None
            self._database.execute("DELETE FROM desired")
            return None
        return msgspec.structs.replace(record, revision=revision)

    def _desired_row(self) -> tuple[int, bytes, bytes] | None:
        assert self._database is not None
        database = self._database
        if database.execute("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'desired'").fetchone() is None:
            return None
        return database.execute("SELECT revision, sha256, content FROM desired").fetchone()

    def _write_desired(self, new: DesiredNodes, expected: int | None) -> bool:
        assert self._database is not None
        if self._in_place():
            self._database.execute(f"CREATE TABLE IF NOT EXISTS desired {COLUMNS}")
        return self._swap("desired", new.revision, encode(new), expected)

    def _close(self) -> None:
        database, self._database = self._database, None
        try:
            if database is not None:
                database.close()
        finally:
            # The lock last: whoever gets it finds the file closed.
            lock, self._lock = self._lock, None
            if lock is not None:
                os.close(lock)


def _translated(path: Path, error: sqlite3.DatabaseError) -> StoreError:
    """Return what *error* means to the manager."""
    # SQLite reports a file that is not one of its own, and a damaged one, as plain DatabaseError; weather is a subclass.
    if type(error) is sqlite3.DatabaseError:
        return StoreDamaged(f"{path}: damaged, or not an SQLite file: {error}")
    return StoreUnavailable(f"{path}: {error}")
