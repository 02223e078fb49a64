"""Hands that do the deeds: sessions that are held, loops that go on, orders to endpointctl. Everything ends with `leave`.

Each deed has a thread, because what it does may never return; none is waited for longer than a few seconds.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Self

import psycopg
from psycopg.conninfo import make_conninfo

from testkit.cluster import Cluster
from tests.hostile.thing import Deed, Manner, Statement

DEED_S = 20.0
"""A deed that has not ended by then goes on beside the others."""
CONNECT_S = 10
LEAVE_S = 5.0
ORDER_S = 60.0


class Refused(Exception):  # noqa: N818 - an answer
    """PostgreSQL or endpointctl would not do it; the text is what the tenant was told."""


class Tenant:
    """Does deeds to one cluster, from `__enter__` to `__exit__`."""

    def __init__(self, cluster: Cluster, doors: dict[str, str]) -> None:
        """*doors*: the URI of each endpoint and node, as postgres."""
        self._cluster = cluster
        self._doors = doors
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self._open: set[psycopg.Connection] = set()
        self._lock = threading.Lock()
        self.heard: list[str] = []
        """Errors that were no refusal: connections that broke, rounds of a loop that failed."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.leave()

    def do(self, deeds: Sequence[Deed], writer: str) -> None:
        """Do all *deeds*, one after the other, while *writer* is the writer. Raises Refused."""
        for deed in deeds:
            if deed.manner is Manner.COMMAND:
                self._order(deed)
                continue
            doors = (
                [name for name in self._doors if name.startswith("n") and name != writer]
                if deed.at == "replicas"
                else [deed.at]
            )
            for door in doors:
                self._sessions(deed, door)

    def leave(self) -> None:
        """End everything that still goes on."""
        self._stop.set()
        deadline = time.monotonic() + LEAVE_S
        while any(thread.is_alive() for thread in self._threads) and time.monotonic() < deadline:
            with self._lock:
                for connection in self._open:
                    _cut(connection)
            time.sleep(0.02)

    def _order(self, deed: Deed) -> None:
        arguments = [str(part) for part in deed.statements]
        done = self._cluster.ctl(*arguments, check=False, timeout_s=ORDER_S)
        if done.returncode in (1, 2):
            raise Refused(f"endpointctl: {(done.stderr or done.stdout).strip()}")
        if done.returncode != 0:
            self.heard.append(f"endpointctl {arguments} ended with {done.returncode}: {done.stderr.strip()}")

    def _sessions(self, deed: Deed, door: str) -> None:
        work = {Manner.ONCE: self._once, Manner.HELD: self._hold, Manner.LOOP: self._repeat}[deed.manner]
        refusals: list[psycopg.Error] = []
        ready = [threading.Event() for _ in range(deed.count)]
        for event in ready:
            thread = threading.Thread(target=self._guarded, args=(work, deed, door, event, refusals), daemon=True)
            self._threads.append(thread)
            thread.start()
        deadline = time.monotonic() + DEED_S
        for event in ready:
            event.wait(max(0.0, deadline - time.monotonic()))
        if len(refusals) == deed.count:
            error = refusals[0]
            raise Refused(f"{error.sqlstate} {error.diag.message_primary}")

    def _guarded(
        self,
        work: Callable[[Deed, str, threading.Event], None],
        deed: Deed,
        door: str,
        ready: threading.Event,
        refusals: list[psycopg.Error],
    ) -> None:
        try:
            work(deed, door, ready)
        except psycopg.Error as error:
            if error.sqlstate is not None and not error.sqlstate.startswith(("08", "57P")) and not ready.is_set():
                refusals.append(error)
            else:
                self.heard.append(str(error).strip())
        finally:
            ready.set()

    def _once(self, deed: Deed, door: str, ready: threading.Event) -> None:
        with self._session(deed, door) as connection:
            _run(connection, deed.statements)

    def _hold(self, deed: Deed, door: str, ready: threading.Event) -> None:
        with self._session(deed, door) as connection:
            _run(connection, deed.statements[:-1])
            if deed.walsender:
                # Sent, and what comes of it is never read.
                connection.pgconn.send_query(_bytes(deed.statements[-1]))
                connection.pgconn.flush()
            else:
                if _never_returns(deed.statements[-1]):
                    ready.set()
                _run(connection, deed.statements[-1:])
            ready.set()
            self._stop.wait()

    def _repeat(self, deed: Deed, door: str, ready: threading.Event) -> None:
        while not self._stop.is_set():
            try:
                with self._session(deed, door) as connection:
                    while not self._stop.wait(deed.pause_s):
                        _run(connection, deed.statements)
                        ready.set()
            except psycopg.Error as error:
                if deed.must_fail:
                    ready.set()
                if not ready.is_set() and error.sqlstate is not None and not error.sqlstate.startswith(("08", "57P")):
                    raise
                if len(self.heard) < 50:
                    self.heard.append(str(error).strip())
                self._stop.wait(deed.pause_s)

    @contextlib.contextmanager
    def _session(self, deed: Deed, door: str) -> Iterator[psycopg.Connection]:
        more = {"replication": "database"} if deed.walsender else {}
        dsn = make_conninfo(
            self._doors[door],
            dbname=deed.database,
            application_name=deed.named,
            connect_timeout=CONNECT_S,
            # So that a server ends what it does for a tenant who has gone: by itself it would look only when it has an answer.
            options=f"-c client_connection_check_interval=200 {deed.options}",
            **({"user": deed.user} if deed.user != "postgres" else {}),
            **more,
        )
        connection = psycopg.connect(dsn, autocommit=True, prepare_threshold=None)
        with self._lock:
            self._open.add(connection)
        try:
            yield connection
        finally:
            with self._lock:
                self._open.discard(connection)
            connection.close()


def _run(connection: psycopg.Connection, statements: Sequence[Statement]) -> None:
    for statement in statements:
        connection.execute(_bytes(statement))


def _bytes(statement: Statement) -> bytes:
    return statement if isinstance(statement, bytes) else statement.encode()


def _never_returns(statement: Statement) -> bool:
    return b"pg_sleep" in _bytes(statement) or b"LOOP" in _bytes(statement)


def _cut(connection: psycopg.Connection) -> None:
    """Shut the connection's socket, so that whoever waits for it hears of it."""
    with contextlib.suppress(OSError, psycopg.Error), socket.socket(fileno=os.dup(connection.fileno())) as twin:
        twin.shutdown(socket.SHUT_RDWR)
