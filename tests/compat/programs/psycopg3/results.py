"""What a statement answers."""

from __future__ import annotations

import psycopg
from psycopg import sql
from psycopg.rows import dict_row

from tests.compat.programs.psycopg3.common import connect, observation


@observation
def every_field_of_an_error() -> object:
    with connect() as session:
        try:
            session.execute(  # type: ignore[call-overload]
                "do $$ begin raise exception 'm' using errcode = 'ZZ123', detail = 'd', hint = 'h', column = 'c', "
                "constraint = 'k', datatype = 't', table = 'b', schema = 's'; end $$"
            )
        except psycopg.Error as error:
            diag = error.diag
            return [
                (name, getattr(diag, name)) for name in sorted(dir(diag)) if not name.startswith("_") and name != "sqlstate"
            ]
    return None


@observation
def position_of_a_syntax_error() -> object:
    with connect() as session:
        try:
            session.execute("select 1 from nowhere where x")
        except psycopg.Error as error:
            return error.sqlstate, error.diag.statement_position, error.diag.source_file, error.diag.source_function
    return None


@observation
def prepared_statements() -> object:
    with connect() as session:
        values = [session.execute("select %s::int + 1", [n], prepare=True).fetchone() for n in range(10)]
        return values, session.execute("select count(*) from pg_prepared_statements").fetchone()


@observation
def binary_results() -> object:
    with connect() as session:
        query = "select 1::int8, 1.5::numeric, '2020-02-29'::date, '{1,2}'::int[], '\\x00ff'::bytea"
        return session.execute(query, binary=True).fetchone()


@observation
def server_cursor() -> object:
    with psycopg.connect() as session, session.cursor("c", scrollable=True, withhold=True) as cursor:
        cursor.itersize = 100
        cursor.execute("select n from generate_series(1, 5000) n")
        total = sum(row[0] for row in cursor)
        cursor.scroll(10, mode="absolute")
        return total, cursor.fetchone()


@observation
def stream_row_by_row() -> object:
    with connect() as session:
        return sum(row[0] for row in session.cursor().stream("select n from generate_series(1, 20000) n"))


@observation
def stream_in_chunks() -> object:
    with connect() as session:
        return sum(row[0] for row in session.cursor().stream("select n from generate_series(1, 20000) n", size=1000))


@observation
def stream_that_is_left() -> object:
    with connect() as session:
        for _ in session.cursor().stream("select n from generate_series(1, 100000) n"):
            break
        return session.execute("select 1").fetchone()


@observation
def notices() -> object:
    with connect() as session:
        found: list[object] = []
        session.add_notice_handler(lambda diag: found.append((diag.severity_nonlocalized, diag.message_primary)))
        session.execute("do $$ begin for i in 1..500 loop raise notice 'n %', i; end loop; raise warning 'w'; end $$")
        return len(found), found[0], found[-1]


@observation
def two_phase_commit() -> object:
    with psycopg.connect() as session:
        session.execute("create table if not exists compat_tpc (n int)")
        session.commit()
        xid = session.xid(1, "compat", "branch")
        session.tpc_begin(xid)
        session.execute("insert into compat_tpc values (1)")
        session.tpc_prepare()
        session.close()
    with psycopg.connect() as session:
        found = [each.gtrid for each in session.tpc_recover()]
        session.rollback()
        for each in session.tpc_recover():
            session.rollback()
            session.tpc_rollback(each)
        return found


@observation
def large_values() -> object:
    with connect() as session:
        row = session.execute("select repeat('x', 20000000)").fetchone()
        size = session.execute("select length(%s)", ["y" * 20_000_000]).fetchone()
        return len(row[0]) if row else None, size


@observation
def large_objects() -> object:
    with psycopg.connect() as session:
        oid = session.execute("select lo_from_bytea(0, %s)", [b"z" * 1_000_000]).fetchone()
        assert oid is not None
        got = session.execute("select length(lo_get(%s))", [oid[0]]).fetchone()
        session.execute("select lo_unlink(%s)", [oid[0]])
        return got


@observation
def function_call() -> object:
    with psycopg.connect() as session:
        return session.execute("select lo_creat(-1) > 0").fetchone()


@observation
def several_results_of_one_query() -> object:
    with connect() as session:
        cursor = session.execute("select 1; select 2, 3; create temp table x (n int); select 4")
        found: list[object] = [cursor.fetchall()]
        while cursor.nextset():
            found.append(cursor.fetchall() if cursor.description else cursor.statusmessage)
        return found


@observation
def states_of_a_transaction() -> object:
    with psycopg.connect() as session:
        states = [session.info.transaction_status.name]
        session.execute("select 1")
        states.append(session.info.transaction_status.name)
        try:
            session.execute("select 1/0")
        except psycopg.Error:
            states.append(session.info.transaction_status.name)
        try:
            session.execute("select 1")
        except psycopg.Error as error:
            states.append(str(error.sqlstate))
        session.rollback()
        states.append(session.info.transaction_status.name)
        return states


@observation
def rows_and_types() -> object:
    with connect(row_factory=dict_row) as session:
        query = sql.SQL("select {}::text as a, null as b, 'ä€😀' as c, '{{}}'::json as d").format(sql.Literal("x"))
        cursor = session.execute(query)
        described = [(column.name, column.type_code) for column in cursor.description or ()]
        return cursor.fetchone(), described


@observation
def empty_query() -> object:
    with connect() as session:
        cursor = session.execute("")
        return cursor.pgresult.status if cursor.pgresult else None
