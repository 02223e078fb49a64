"""A session of ours never calls what somebody planted where it might look (CVE-2018-1058), whoever owns the database.

The owner of `postgres` and `template1`, a plain role, makes a look-alike of every function, operator, relation and type that
it can in `public`, and has `public` searched before pg_catalog.  Each look-alike says in the server's log who called it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from testkit.cluster import Cluster

OWNED = ("postgres", "template1")
PINNED = "-c search_path=pg_catalog"

PLANT = r"""
CREATE FUNCTION public.sprung(what text) RETURNS bool LANGUAGE plpgsql AS
  $t$ BEGIN RAISE WARNING 'sprung: %, by %', what, current_user; RETURN true; END $t$;

DO $plant$
DECLARE one record; body text; planted int := 0;
BEGIN
  FOR one IN SELECT proname AS name, pg_get_function_arguments(oid) AS args, pg_get_function_result(oid) AS result, proretset
               FROM pg_proc WHERE pronamespace = 'pg_catalog'::regnamespace AND prokind = 'f' LOOP
    body := format('BEGIN RAISE WARNING %L, current_user; RETURN%s; END', 'sprung: function ' || one.name || ', by %',
                   CASE WHEN one.proretset OR one.result IN ('void', 'record') THEN '' ELSE ' NULL' END);
    BEGIN
      EXECUTE format('CREATE FUNCTION public.%I(%s) RETURNS %s LANGUAGE plpgsql AS %L', one.name, one.args, one.result, body);
      planted := planted + 1;
    EXCEPTION WHEN OTHERS THEN NULL;  -- what plpgsql cannot take, such as cstring and internal
    END;
  END LOOP;
  FOR one IN SELECT oid, oprname AS name, oprleft::regtype AS l, oprright::regtype AS r, oprresult::regtype AS result
               FROM pg_operator WHERE oprnamespace = 'pg_catalog'::regnamespace AND oprkind = 'b' LOOP
    body := format('BEGIN RAISE WARNING %L, current_user; RETURN NULL; END', 'sprung: operator ' || one.name || ', by %');
    BEGIN
      EXECUTE format('CREATE FUNCTION public.operator_%s(%s, %s) RETURNS %s LANGUAGE plpgsql AS %L',
                     one.oid, one.l, one.r, one.result, body);
      EXECUTE format('CREATE OPERATOR public.%s (LEFTARG = %s, RIGHTARG = %s, FUNCTION = public.operator_%s)',
                     one.name, one.l, one.r, one.oid);
      planted := planted + 1;
    EXCEPTION WHEN OTHERS THEN NULL;
    END;
  END LOOP;
  FOR one IN SELECT relname AS name FROM pg_class WHERE relnamespace = 'pg_catalog'::regnamespace AND relkind IN ('r', 'v') LOOP
    BEGIN
      EXECUTE format('CREATE VIEW public.%1$I AS SELECT * FROM pg_catalog.%1$I WHERE public.sprung(%2$L)',
                     one.name, 'relation ' || one.name);
      planted := planted + 1;
    EXCEPTION WHEN OTHERS THEN NULL;
    END;
  END LOOP;
  FOR one IN SELECT unnest('{text,name,oid,int2,int4,int8,float8,bool,pg_lsn,regprocedure,regclass}'::text[]) AS name LOOP
    EXECUTE format('CREATE DOMAIN public.%1$I AS pg_catalog.%1$I CHECK (public.sprung(%2$L))', one.name, 'type ' || one.name);
    planted := planted + 1;
  END LOOP;
  IF planted < 2500 THEN
    RAISE EXCEPTION 'only % look-alikes', planted;
  END IF;
END $plant$;
"""


def sprung(cluster: Cluster) -> list[str]:
    """Return what the logs of every server say of look-alikes that were called."""
    found: list[str] = []
    for path in Path(cluster.data_dir).glob("nodes/*/log/postgresql.log*"):
        found += [line for line in path.read_text(errors="replace").splitlines() if "sprung: " in line]
    return found


def plant(cluster: Cluster) -> None:
    with psycopg.connect(cluster.dsn("writer"), autocommit=True, options=PINNED) as connection:
        connection.execute("CREATE ROLE mallory LOGIN PASSWORD 'm'")
        for database in OWNED:
            connection.execute(f"ALTER DATABASE {database} OWNER TO mallory")  # type: ignore[arg-type]
    for database in OWNED:
        where = f"host=127.0.0.1 port={cluster.port(32)} user=mallory password=m dbname={database}"
        with psycopg.connect(where, autocommit=True, options=PINNED) as connection:
            connection.execute(PLANT)  # type: ignore[arg-type]
            connection.execute(f"ALTER DATABASE {database} SET search_path = public, pg_catalog")  # type: ignore[arg-type]


@pytest.mark.timeout(300)
def test_no_session_of_ours_calls_what_was_planted(make_cluster: Callable[..., Cluster]) -> None:
    cluster = make_cluster()
    cluster.up()
    cluster.wait_healthy()
    plant(cluster)
    # Every session of ours is opened anew while the look-alikes are there, and everything it does is done.
    assert "kept its word" in cluster.ctl("verify", "--seconds", "2", "--switchover").stdout
    cluster.wait_healthy()
    assert "kept its word" in cluster.ctl("verify", "--seconds", "2", "--failover", "--yes").stdout
    cluster.wait_healthy()
    cluster.ctl("config", "set", "work_mem=5MB", "--wait")
    cluster.ctl("drill")
    standby = next(node.name for node in cluster.status().nodes if node.state == "streaming")
    cluster.ctl("node", "reinit", standby, "--yes")
    cluster.wait_healthy()
    with psycopg.connect(cluster.dsn("writer"), autocommit=True, options=PINNED) as connection:
        connection.execute("CREATE ROLE relaxed")
        connection.execute("ALTER ROLE relaxed SET synchronous_commit = off")
    cluster.wait(lambda status: any("relaxed" in text for text in status.relaxations), "told of the relaxed role")
    assert sprung(cluster) == []
    # The look-alikes work: whoever does not pin the path calls them.
    with psycopg.connect(cluster.dsn("writer"), autocommit=True) as connection:
        connection.execute("SELECT pg_is_in_recovery(), 1 = 1 FROM pg_settings LIMIT 1")
    deadline = time.monotonic() + 10.0
    while not {"function", "operator", "relation"} <= {line.split("sprung: ")[1].split()[0] for line in sprung(cluster)}:
        assert time.monotonic() < deadline, sprung(cluster)
        time.sleep(0.05)
