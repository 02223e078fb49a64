"""Many statements or rows at once: pipelines, executemany, COPY."""

from __future__ import annotations

import hashlib

import psycopg

from tests.compat.programs.psycopg3.common import connect, observation


@observation
def pipeline() -> object:
    with connect() as session, session.pipeline():
        cursors = [session.execute("select %s::int", [number]) for number in range(500)]
        return sum(row[0] for cursor in cursors for row in cursor.fetchall())


@observation
def pipeline_with_an_error() -> object:
    seen: list[object] = []
    with connect() as session:
        try:
            with session.pipeline() as pipeline:
                first = session.execute("select 1")
                second = session.execute("select 1/0")
                third = session.execute("select 3")
                try:
                    pipeline.sync()  # else it depends on time what has arrived before the results are asked for
                except psycopg.Error as error:
                    seen.append((type(error).__name__, error.sqlstate))
                for cursor in (first, second, third):
                    try:
                        seen.append(cursor.fetchone())
                    except psycopg.Error as error:
                        seen.append((type(error).__name__, error.sqlstate))
        except psycopg.Error as error:
            seen.append((type(error).__name__, error.sqlstate))
        seen.append(session.execute("select 4").fetchone())
    return seen


@observation
def pipeline_of_transactions() -> object:
    with connect() as session:
        session.execute("create temp table t (n int)")
        with session.pipeline():
            for number in range(20):
                with session.transaction():
                    session.execute("insert into t values (%s)", [number])
        return session.execute("select count(*), sum(n) from t").fetchone()


@observation
def executemany() -> object:
    with connect() as session:
        session.execute("create temp table t (n int, s text)")
        cursor = session.cursor()
        cursor.executemany("insert into t values (%s, %s)", [(n, "x" * 1000) for n in range(2000)])
        return cursor.rowcount, session.execute("select count(*), sum(length(s)) from t").fetchone()


@observation
def executemany_returning() -> object:
    with connect() as session:
        session.execute("create temp table t (n int)")
        cursor = session.cursor()
        cursor.executemany("insert into t values (%s) returning n * 2", [(n,) for n in range(50)], returning=True)
        found: list[object] = []
        for _ in cursor.results():
            row = cursor.fetchone()
            found.append(row[0] if row else None)
        return found


@observation
def executemany_with_an_error() -> object:
    with connect() as session:
        session.execute("create temp table t (n int primary key)")
        try:
            session.cursor().executemany("insert into t values (%s)", [(1,), (2,), (2,), (3,)])
        except psycopg.Error as error:
            return error.sqlstate, session.execute("select count(*) from t").fetchone()
    return None


@observation
def copy_in() -> object:
    with connect() as session:
        session.execute("create temp table t (n int, s text)")
        with session.cursor() as cursor, cursor.copy("copy t from stdin") as copy:
            for number in range(50_000):
                copy.write_row((number, "some text"))
        return session.execute("select count(*), sum(n) from t").fetchone()


@observation
def copy_in_binary() -> object:
    with connect() as session:
        session.execute("create temp table t (n int4, s text)")
        with session.cursor() as cursor, cursor.copy("copy t from stdin (format binary)") as copy:
            copy.set_types(["int4", "text"])
            for number in range(1000):
                copy.write_row((number, "some text"))
        return session.execute("select count(*), sum(n) from t").fetchone()


@observation
def copy_in_that_the_server_refuses() -> object:
    with connect() as session:
        session.execute("create temp table t (n int)")
        try:
            with session.cursor() as cursor, cursor.copy("copy t from stdin") as copy:
                for number in range(100_000):
                    copy.write(f"{number}\nno number\n" if number == 50 else f"{number}\n")
        except psycopg.Error as error:
            return error.sqlstate, error.diag.context, session.execute("select count(*) from t").fetchone()
    return None


@observation
def copy_in_that_the_client_gives_up() -> object:
    with connect() as session:
        session.execute("create temp table t (n int)")
        try:
            with session.cursor() as cursor, cursor.copy("copy t from stdin") as copy:
                copy.write("1\n")
                raise ValueError("enough")
        except ValueError:
            return session.execute("select count(*) from t").fetchone(), session.info.transaction_status.name


@observation
def copy_out() -> object:
    with connect() as session, session.cursor() as cursor:
        digest = hashlib.sha256()
        with cursor.copy("copy (select n, repeat('x', 100) from generate_series(1, 100000) n) to stdout") as copy:
            for block in copy:
                digest.update(block)
        return digest.hexdigest(), cursor.rowcount


@observation
def copy_out_that_is_left() -> object:
    with connect() as session, session.cursor() as cursor:
        with cursor.copy("copy (select repeat('x', 1000) from generate_series(1, 100000)) to stdout") as copy:
            for _ in copy:
                break
        return session.execute("select 1").fetchone()
