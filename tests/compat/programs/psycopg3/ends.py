"""What comes unasked: notifications, cancelling, the end."""

from __future__ import annotations

import os
import select
import socket
import threading
import time
from collections.abc import Callable

import psycopg

from tests.compat.programs.psycopg3.common import DEADLINE_S, connect, observation


@observation
def notifications_to_an_idle_session() -> object:
    with connect() as listener, connect() as sender:
        listener.execute("listen c")
        for number in range(50):
            sender.execute("select pg_notify('c', %s)", [f"{number}" + "x" * 5000])
        found = [notify.payload for notify in listener.notifies(timeout=DEADLINE_S, stop_after=50)]
        return len(found), [payload.rstrip("x") for payload in found[:3]], {len(payload) > 5000 for payload in found}


@observation
def cancel_safe() -> object:
    return _cancelled(lambda session: session.cancel_safe(timeout=DEADLINE_S))


@observation
def cancel_old_way() -> object:
    return _cancelled(lambda session: session.cancel())


def _cancelled(cancel: Callable[[psycopg.Connection], object]) -> object:
    with connect() as session:
        timer = threading.Thread(target=_when_busy, args=(session.info.backend_pid, lambda: cancel(session)))
        timer.start()
        try:
            session.execute("select pg_sleep(60)")
        except psycopg.Error as error:
            return error.sqlstate, str(error), session.execute("select 1").fetchone()
        finally:
            timer.join()
    return None


def _when_busy(pid: int, act: Callable[[], object]) -> None:
    """Do *act* when the server process *pid* sleeps as it was told."""
    with connect() as watcher:
        deadline = time.monotonic() + DEADLINE_S
        while time.monotonic() < deadline:
            row = watcher.execute("select wait_event from pg_stat_activity where pid = %s", [pid]).fetchone()
            if row is not None and row[0] == "PgSleep":
                act()
                return
            time.sleep(0.01)


@observation
def terminated_when_idle() -> object:
    with connect() as session, connect() as killer:
        killer.execute("select pg_terminate_backend(%s)", [session.info.backend_pid])
        select.select([session.pgconn.socket], [], [], DEADLINE_S)
        try:
            session.execute("select 1")
        except psycopg.Error as error:
            return type(error).__name__, error.sqlstate, str(error)
    return None


@observation
def terminated_when_busy() -> object:
    with connect() as session:
        pid = session.info.backend_pid

        def end() -> None:
            with connect() as killer:
                killer.execute("select pg_terminate_backend(%s)", [pid])

        timer = threading.Thread(target=_when_busy, args=(pid, end))
        timer.start()
        try:
            session.execute("select pg_sleep(60)")
        except psycopg.Error as error:
            return type(error).__name__, error.sqlstate, str(error)
        finally:
            timer.join()
    return None


@observation
def timeouts_of_the_server() -> object:
    found: list[object] = []
    for setting, work in (
        ("statement_timeout", b"select pg_sleep(60)"),
        ("idle_session_timeout", None),
        ("idle_in_transaction_session_timeout", b"begin"),
    ):
        with connect(options=f"-c {setting}=300") as session:
            try:
                if work is not None:
                    session.execute(work)
                select.select([session.pgconn.socket], [], [], DEADLINE_S)
                session.execute("select 1")
            except psycopg.Error as error:
                found.append((setting, error.sqlstate, str(error)))
    return found


@observation
def a_client_that_vanishes() -> object:
    """A socket that is closed without a goodbye: its transaction is rolled back, and its process goes."""
    with connect() as watcher:
        watcher.execute("create table if not exists compat_gone (n int)")
        session = psycopg.connect()
        pid = session.info.backend_pid
        session.execute("insert into compat_gone values (1)")
        with socket.socket(fileno=os.dup(session.pgconn.socket)) as copy:
            copy.shutdown(socket.SHUT_RDWR)
        deadline = time.monotonic() + DEADLINE_S
        while time.monotonic() < deadline:
            if watcher.execute("select 1 from pg_stat_activity where pid = %s", [pid]).fetchone() is None:
                return watcher.execute("select count(*) from compat_gone").fetchone()
            time.sleep(0.01)
    return "its process stays"
