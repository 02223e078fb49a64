"""The table of things that a tenant can do. One more is one line.

A tenant is `postgres`, a superuser, in database `postgres` through the writer endpoint, unless the line says otherwise.
"""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Sequence
from typing import Any

from tests.hostile.keeper import ROLES_BACK
from tests.hostile.thing import Deed, Ends, Statement, Thing, back, back_everywhere, ctl, held, lock, loop, sql, walsenders

OURS = "endpointd"
"""The database that noded's own sessions are in."""
_SYSTEM = "SET allow_system_table_mods = on"
_ROLES = (back(ROLES_BACK),)
_OTHERS = "FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND backend_type IN ('client backend', 'walsender')"

_APP = "DO $$ BEGIN CREATE ROLE app; EXCEPTION WHEN duplicate_object THEN NULL; END $$"
_OF_FUNCTIONS = """
DO $$ DECLARE f regprocedure; BEGIN
  FOR f IN SELECT oid FROM pg_proc WHERE pronamespace = 'pg_catalog'::regnamespace AND proname IN
    ('pg_logical_emit_message', 'pg_current_wal_flush_lsn', 'pg_current_wal_insert_lsn', 'pg_is_in_recovery',
     'pg_stat_get_wal_senders', 'pg_stat_get_activity', 'pg_last_wal_replay_lsn', 'pg_last_wal_receive_lsn',
     'pg_get_replication_slots', 'pg_control_checkpoint', 'pg_control_system', 'current_setting') LOOP
    EXECUTE format('{order} EXECUTE ON FUNCTION %s {preposition} PUBLIC', f);
  END LOOP; END $$
"""
_RAISES = "CREATE OR REPLACE FUNCTION public.no() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'no'; END $$"
_SLEEPS = (
    "CREATE OR REPLACE FUNCTION public.wait() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(600); END $$"
)
_SLOTS_BACK = back_everywhere(
    "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name LIKE 'mine%'"
)
_EACH_MEMBERS_SLOT = (
    "FOR s IN SELECT slot_name FROM pg_replication_slots WHERE NOT active AND slot_name LIKE 'n_\\_%' "
    "LOOP PERFORM pg_drop_replication_slot(s)"
)
_FILLED = (
    f"DO $$ DECLARE s name; BEGIN {_EACH_MEMBERS_SLOT}; END LOOP; FOR n IN 1..1000 LOOP "
    "PERFORM pg_create_physical_replication_slot('mine' || n); END LOOP; EXCEPTION WHEN OTHERS THEN NULL; END $$"
)
_TABLESPACE = f"/tmp/endpointd-hostile-{os.getpid()}"
_WRONG_LSN = "LANGUAGE sql AS $$ SELECT '0/1'::pg_lsn $$"


def _thing(name: str, *deeds: Deed, undo: Sequence[Deed] = (), **more: Any) -> Thing:
    return Thing(name=name, deeds=deeds, undo=tuple(undo), **more)


def _role(name: str, *statements: Statement, **more: Any) -> Thing:
    """One of our roles is changed; undone from a dump of them."""
    return _thing(name, sql(*statements), undo=_ROLES, tells="role|endpointd|log ?in|login|password", **more)


def _for_all(setting: str, value: str, **more: Any) -> Thing:
    """ALTER ROLE ALL SET."""
    return _thing(
        f"all-{setting}",
        sql(f"ALTER ROLE ALL SET {setting} = {value}"),
        undo=[back("ALTER ROLE ALL RESET ALL")],
        tells=setting,
        **more,
    )


def _configured(setting: str, value: str, **more: Any) -> Thing:
    """`endpointctl config set`."""
    name, given = f"config-{setting}", f"{setting}={value}"
    return _thing(
        name, ctl("config", "set", "--wait", given), undo=[ctl("config", "set", "--reset", setting)], tells=setting, **more
    )


def _locked(catalog: str, **more: Any) -> Thing:
    return _thing(f"lock-{catalog}", lock(catalog), tells="lock", **more)


def _locked_in_ours(catalog: str, **more: Any) -> Thing:
    return _thing(f"lock-ours-{catalog}", lock(catalog, database=OURS), tells="lock", **more)


def _replaced(function: str, returns: str, body: str, original: str, database: str = "postgres", **more: Any) -> Thing:
    """A function of PostgreSQL's own is replaced by another of its name."""
    return _thing(
        f"replace-{'ours-' if database == OURS else ''}{function.partition('(')[0]}",
        sql(
            f"CREATE OR REPLACE FUNCTION pg_catalog.{function} RETURNS {returns} LANGUAGE sql VOLATILE AS $$ {body} $$",
            database=database,
        ),
        undo=[
            back(
                f"CREATE OR REPLACE FUNCTION pg_catalog.{function} RETURNS {returns} LANGUAGE internal STRICT AS '{original}'",
                database=database,
            )
        ],
        **more,
    )


_THINGS: tuple[Thing, ...] = (
    # Nothing at all: the figure to compare with.
    _thing("nothing", fast=True),
    # Roles.
    _role("role-password", "ALTER ROLE endpointd PASSWORD 'x'", fast=True),
    _role("role-no-password", "ALTER ROLE endpointd PASSWORD NULL"),
    _role("role-replication-password", "ALTER ROLE endpointd_replication PASSWORD 'x'", fast=True),
    _role("role-probe-password", "ALTER ROLE endpointd_probe PASSWORD 'x'"),
    _role("role-nologin", "ALTER ROLE endpointd NOLOGIN"),
    _role("role-replication-nologin", "ALTER ROLE endpointd_replication NOLOGIN"),
    _role("role-replication-noreplication", "ALTER ROLE endpointd_replication NOREPLICATION"),
    _role("role-nosuperuser", "ALTER ROLE endpointd NOSUPERUSER"),
    _role("role-renamed", "ALTER ROLE endpointd RENAME TO mine"),
    _role("role-replication-renamed", "ALTER ROLE endpointd_replication RENAME TO mine_too"),
    _role(
        "role-dropped", "REASSIGN OWNED BY endpointd TO postgres", "DROP OWNED BY endpointd", "DROP ROLE endpointd", fast=True
    ),
    _role("role-replication-dropped", "DROP OWNED BY endpointd_replication", "DROP ROLE endpointd_replication"),
    _role("role-probe-dropped", "DROP OWNED BY endpointd_probe", "DROP ROLE endpointd_probe"),
    _role("role-deleted-in-catalog", _SYSTEM, "DELETE FROM pg_authid WHERE rolname = 'endpointd'"),
    _role("role-nologin-in-catalog", _SYSTEM, "UPDATE pg_authid SET rolcanlogin = false WHERE rolname LIKE 'endpointd%'"),
    _role("role-expired", "ALTER ROLE endpointd VALID UNTIL '2001-01-01'"),
    _role("role-replication-expired", "ALTER ROLE endpointd_replication VALID UNTIL '2001-01-01'"),
    _role(
        "role-connection-limit", *(f"ALTER ROLE endpointd{part} CONNECTION LIMIT 0" for part in ("", "_replication", "_probe"))
    ),
    _role("role-owned-reassigned", "REASSIGN OWNED BY endpointd TO postgres"),
    _role("role-probe-unmonitored", "REVOKE pg_monitor FROM endpointd_probe"),
    _role("role-superuser-nologin", "ALTER ROLE postgres NOLOGIN"),
    _role("role-superuser-demoted", "ALTER ROLE postgres NOSUPERUSER"),
    _role("role-superuser-renamed", "SET SESSION AUTHORIZATION keeper", "ALTER ROLE postgres RENAME TO king"),
    _role("role-set-role", "CREATE ROLE app", "ALTER ROLE endpointd SET role = app"),
    _role("role-set-read-only", "ALTER ROLE endpointd SET default_transaction_read_only = on"),
    _role("role-set-replication-timeout", "ALTER ROLE endpointd_replication SET wal_sender_timeout = 1"),
    _role("role-set-preload", "ALTER ROLE endpointd SET session_preload_libraries = 'nowhere'"),
    # Settings for a database.
    _thing(
        "database-set-role",
        sql(
            _APP,
            "ALTER DATABASE postgres SET role = app",
        ),
        undo=[back("ALTER DATABASE postgres RESET ALL")],
        tells="role",
        fast=True,
    ),
    _thing(
        "role-in-database-set",
        sql("ALTER ROLE endpointd IN DATABASE postgres SET statement_timeout = 1"),
        undo=[back("ALTER ROLE endpointd IN DATABASE postgres RESET ALL")],
    ),
    _thing(
        "database-set-preload",
        sql("ALTER DATABASE postgres SET session_preload_libraries = 'nowhere'"),
        undo=[back("ALTER DATABASE postgres RESET ALL")],
        tells="preload|nowhere",
    ),
    _thing(
        "template1-set-read-only",
        sql("ALTER DATABASE template1 SET default_transaction_read_only = on"),
        undo=[back("ALTER DATABASE template1 RESET ALL")],
    ),
    # Settings for everybody.
    _for_all("transaction_timeout", "1", since=17, fast=True),
    _for_all("statement_timeout", "1"),
    _for_all("lock_timeout", "1"),
    _for_all("idle_session_timeout", "1"),
    _for_all("idle_in_transaction_session_timeout", "1"),
    _for_all("default_transaction_read_only", "on"),
    _for_all("default_transaction_isolation", "serializable"),
    _for_all("default_transaction_deferrable", "on"),
    _for_all("search_path", "trap"),
    _for_all("session_preload_libraries", "'nowhere'"),
    _for_all("local_preload_libraries", "'nowhere'"),
    _for_all("client_encoding", "'LATIN1'"),
    _for_all("synchronous_commit", "off"),
    _for_all("row_security", "off"),
    _for_all("session_replication_role", "replica"),
    _for_all("datestyle", "'German, DMY'"),
    _for_all("bytea_output", "escape"),
    _for_all("quote_all_identifiers", "on"),
    _for_all("exit_on_error", "on"),
    _for_all("log_min_messages", "debug5"),
    _for_all("temp_file_limit", "0"),
    _for_all("default_table_access_method", "'nowhere'"),
    _for_all("client_connection_check_interval", "1"),
    _for_all("wal_sender_timeout", "1"),
    _for_all("role", "app"),
    # Settings of the cluster.
    _configured("transaction_timeout", "1", since=17, fast=True),
    _configured("statement_timeout", "1"),
    _configured("authentication_timeout", "1"),
    _configured("idle_session_timeout", "1"),
    _configured("default_transaction_read_only", "on"),
    _configured("session_preload_libraries", "nowhere"),
    _configured("recovery_end_command", "sleep 3600", ends=Ends.REFUSED),
    _configured("recovery_min_apply_delay", "10min", ends=Ends.REFUSED),
    _configured("post_auth_delay", "30", ends=Ends.REFUSED),
    _configured("ignore_system_indexes", "on"),
    _configured("db_user_namespace", "on", until=16),
    _configured("idle_replication_slot_timeout", "1", since=18),
    _configured("max_wal_size", "32MB"),
    # What is in force only after a restart: the killed server is the first to have it.
    *(
        _thing(
            f"config-{setting}",
            ctl("config", "set", f"{setting}={value}"),
            undo=[ctl("config", "set", "--reset", setting), ctl("restart", "--only-pending")],
            tells=setting,
        )
        for setting, value in (
            ("max_connections", "12"),
            ("shared_buffers", "64GB"),
            ("huge_pages", "on"),
            ("ssl", "on"),
            ("shared_preload_libraries", "nowhere"),
            ("max_locks_per_transaction", "10"),
            ("max_worker_processes", "0"),
        )
    ),
    _configured("log_min_messages", "debug5"),
    _configured("log_directory", "/nowhere"),
    _configured("session_replication_role", "replica"),
    _thing(
        "alter-system-names",
        sql("ALTER SYSTEM SET synchronous_standby_names = ''", "SELECT pg_reload_conf()"),
        undo=[back("ALTER SYSTEM RESET ALL")],
        until=16,
    ),
    _thing("alter-system", sql("ALTER SYSTEM SET work_mem = '1MB'"), ends=Ends.REFUSED, since=17),
    _thing(
        "alter-system-transaction-timeout",
        sql("ALTER SYSTEM SET statement_timeout = 1", "ALTER SYSTEM SET hot_standby = off", "SELECT pg_reload_conf()"),
        undo=[back("ALTER SYSTEM RESET ALL")],
        until=16,
    ),
    # Triggers.
    _thing(
        "trigger-login-sleeps",
        sql(
            _SLEEPS,
            "CREATE EVENT TRIGGER waits ON login EXECUTE FUNCTION public.wait()",
            "ALTER EVENT TRIGGER waits ENABLE ALWAYS",
        ),
        undo=[back("DROP EVENT TRIGGER IF EXISTS waits", database="postgres")],
        since=17,
        fast=True,
    ),
    _thing(
        "trigger-login-raises",
        sql(
            _RAISES,
            "CREATE EVENT TRIGGER no_entry ON login EXECUTE FUNCTION public.no()",
            "ALTER EVENT TRIGGER no_entry ENABLE ALWAYS",
        ),
        undo=[back("DROP EVENT TRIGGER IF EXISTS no_entry", database="postgres")],
        since=17,
    ),
    _thing(
        "trigger-ddl-raises",
        sql(
            _RAISES,
            "CREATE EVENT TRIGGER no_ddl ON ddl_command_start EXECUTE FUNCTION public.no()",
        ),
        undo=[back("DROP EVENT TRIGGER IF EXISTS no_ddl", database="postgres")],
    ),
    _thing(
        "rename-ours-pg_stat_get_wal_senders",
        sql("ALTER FUNCTION pg_catalog.pg_stat_get_wal_senders() RENAME TO hidden", database=OURS),
        undo=[back("ALTER FUNCTION pg_catalog.hidden() RENAME TO pg_stat_get_wal_senders", database=OURS)],
        tells="pg_stat_get_wal_senders",
    ),
    _thing(
        "all-oversized",
        sql("DO $$ BEGIN EXECUTE format('ALTER ROLE ALL SET app.junk = %L', repeat('x', 30000000)); END $$"),
        undo=[back("ALTER ROLE ALL RESET ALL")],
    ),
    # Locks that an open transaction holds.
    _locked("pg_authid", fast=True),
    _locked("pg_database"),
    _locked("pg_auth_members"),
    _locked("pg_db_role_setting"),
    _locked("pg_shdepend"),
    _locked("pg_tablespace"),
    _locked("pg_shseclabel"),
    _locked("pg_replication_origin"),
    _locked("pg_parameter_acl"),
    _locked("pg_subscription"),
    _locked("pg_class"),
    _locked("pg_proc"),
    _locked("pg_type"),
    _locked("pg_namespace"),
    _locked("pg_attribute"),
    _locked("pg_operator"),
    _locked("pg_event_trigger"),
    _thing(
        "lock-every-catalog",
        held(
            "BEGIN",
            "DO $$ DECLARE t regclass; BEGIN FOR t IN SELECT oid FROM pg_class WHERE relnamespace = 11 AND relkind = 'r' "
            "ORDER BY relisshared DESC LOOP EXECUTE format('LOCK TABLE %s IN ACCESS EXCLUSIVE MODE', t); END LOOP; END $$",
        ),
        tells="lock",
    ),
    _thing(
        "lock-replay-conflict",
        sql("CREATE TABLE IF NOT EXISTS public.stage (n int)"),
        held(
            "BEGIN ISOLATION LEVEL REPEATABLE READ", "SELECT count(*) FROM public.stage", "SELECT pg_sleep(600)", at="replicas"
        ),
        lock("public.stage"),
        undo=[back("DROP TABLE IF EXISTS public.stage", database="postgres")],
    ),
    _thing(
        "prepared-lock-table",
        sql("CREATE TABLE IF NOT EXISTS public.stage (n int)"),
        sql("BEGIN", "LOCK TABLE public.stage", "PREPARE TRANSACTION 'kept'"),
        undo=[back("ROLLBACK PREPARED 'kept'", "DROP TABLE IF EXISTS public.stage", database="postgres")],
    ),
    _thing(
        "prepared-lock-pg_proc",
        sql("BEGIN", "LOCK TABLE pg_proc", "PREPARE TRANSACTION 'kept'"),
        undo=[back("ROLLBACK PREPARED 'kept'", database="postgres")],
        by_standing=True,
    ),
    _thing(
        "prepared-lock-pg_authid",
        sql("BEGIN", "LOCK TABLE pg_authid", "PREPARE TRANSACTION 'kept'"),
        undo=[back("ROLLBACK PREPARED 'kept'", database="postgres")],
        ends=Ends.TOLD,
        tells="prepared",
        locks_out=True,
        spared=True,
        by_standing=True,
    ),
    _thing(
        "prepared-many",
        *(
            sql("BEGIN", "SELECT pg_logical_emit_message(true, 'x', 'y'), txid_current()", f"PREPARE TRANSACTION 'p{n}'")
            for n in range(10)
        ),
        undo=[back(f"ROLLBACK PREPARED 'p{n}'", database="postgres") for n in range(10)],
    ),
    # Maintenance of catalogs.
    _thing("vacuum-full-catalogs", sql("VACUUM FULL pg_authid", "VACUUM FULL pg_database", "VACUUM FULL pg_class")),
    _thing("vacuum-full-loop", loop("VACUUM FULL pg_authid", "VACUUM FULL pg_database", "VACUUM FULL pg_db_role_setting")),
    _thing("reindex-system", sql("REINDEX SYSTEM postgres")),
    _thing("reindex-shared-loop", loop("REINDEX TABLE pg_authid", "REINDEX TABLE pg_database")),
    _thing(
        "cluster-pg_authid",
        sql("CLUSTER pg_authid USING pg_authid_rolname_index", "CLUSTER pg_database USING pg_database_oid_index"),
    ),
    # Names.
    _thing(
        "name-database-not-utf8",
        sql("CREATE DATABASE ascii ENCODING 'SQL_ASCII' TEMPLATE template0 LOCALE_PROVIDER libc LOCALE 'C'"),
        sql(
            b"CREATE DATABASE \"b\xfccher\" ENCODING 'SQL_ASCII' TEMPLATE template0 LOCALE_PROVIDER libc LOCALE 'C'",
            database="ascii",
            options="-c client_encoding=SQL_ASCII",
        ),
        undo=[
            back(b"SET client_encoding = SQL_ASCII", b'DROP DATABASE IF EXISTS "b\xfccher"', database="ascii"),
            back("DROP DATABASE IF EXISTS ascii WITH (FORCE)"),
        ],
        fast=True,
    ),
    _thing(
        "name-role-not-utf8",
        sql("CREATE DATABASE ascii ENCODING 'SQL_ASCII' TEMPLATE template0 LOCALE_PROVIDER libc LOCALE 'C'"),
        sql(
            b'CREATE ROLE "m\xfcller" LOGIN',
            b'ALTER ROLE "m\xfcller" SET synchronous_commit = off',
            database="ascii",
            options="-c client_encoding=SQL_ASCII",
        ),
        undo=[
            back(b"SET client_encoding = SQL_ASCII", b'DROP ROLE IF EXISTS "m\xfcller"', database="ascii"),
            back("DROP DATABASE IF EXISTS ascii WITH (FORCE)"),
        ],
    ),
    _thing(
        "name-role-forged",
        sql(
            'CREATE ROLE "\x1b[2J\n""cluster local  healthy [/x] \'" LOGIN',
            'ALTER ROLE "\x1b[2J\n""cluster local  healthy [/x] \'" SET synchronous_commit = off',
        ),
        undo=[back('DROP ROLE IF EXISTS "\x1b[2J\n""cluster local  healthy [/x] \'"')],
    ),
    _thing("name-database-long", sql(f'CREATE DATABASE "{"é" * 31}"'), undo=[back(f'DROP DATABASE IF EXISTS "{"é" * 31}"')]),
    _thing("name-application-ours", held("BEGIN", "SELECT txid_current()", count=5, named="endpointd control")),
    _thing(
        "name-application-observer-sleeps",
        held(
            "BEGIN ISOLATION LEVEL REPEATABLE READ",
            "SELECT count(*) FROM pg_class",
            "SELECT pg_sleep(600)",
            at="replicas",
            named="endpointd observer",
        ),
    ),
    _thing(
        "database-latin1",
        sql("CREATE DATABASE latin ENCODING 'LATIN1' TEMPLATE template0 LOCALE_PROVIDER libc LOCALE 'C'"),
        undo=[back("DROP DATABASE latin")],
    ),
    # Extensions and languages.
    _thing(
        "drop-plpgsql",
        sql("DROP EXTENSION plpgsql CASCADE"),
        undo=[back("CREATE EXTENSION IF NOT EXISTS plpgsql", database="postgres")],
    ),
    _thing("plpgsql-spins", held("DO $$ BEGIN LOOP END LOOP; END $$", count=4)),
    _thing("plpgsql-spins-on-replicas", held("DO $$ BEGIN LOOP END LOOP; END $$", count=2, at="replicas")),
    _thing(
        "extension-dblink",
        sql("CREATE EXTENSION IF NOT EXISTS dblink"),
        undo=[back("DROP EXTENSION IF EXISTS dblink", database="postgres")],
    ),
    # Tablespaces.
    _thing(
        "tablespace-outside",
        sql(
            f"COPY (SELECT) TO PROGRAM 'rm -rf {_TABLESPACE} && mkdir {_TABLESPACE}'",
            f"CREATE TABLESPACE outside LOCATION '{_TABLESPACE}'",
        ),
        sql("CREATE TABLE public.far (n int) TABLESPACE outside", "INSERT INTO public.far SELECT generate_series(1, 10000)"),
        undo=[back("DROP TABLE IF EXISTS public.far", "DROP TABLESPACE IF EXISTS outside", database="postgres")],
    ),
    _thing(
        "tablespace-in-place",
        sql("SET allow_in_place_tablespaces = on", "CREATE TABLESPACE inside LOCATION ''"),
        undo=[back("DROP TABLESPACE IF EXISTS inside")],
    ),
    # Slots.
    _thing(
        "slot-physical",
        sql("SELECT pg_create_physical_replication_slot('barman', true)"),
        undo=[
            back_everywhere("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = 'barman'")
        ],
    ),
    _thing(
        "slot-logical",
        sql("SELECT pg_create_logical_replication_slot('stream', 'pgoutput')"),
        undo=[
            back(
                "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = 'stream'",
                database="postgres",
            )
        ],
    ),
    _thing(
        "slots-of-members-dropped",
        loop(
            "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots "
            "WHERE NOT active AND NOT temporary AND slot_name LIKE 'n_\\_%'",
            pause_s=0.3,
        ),
    ),
    _thing(
        "slots-of-members-held",
        held(
            f"DO $$ DECLARE s name; BEGIN {_EACH_MEMBERS_SLOT}; PERFORM pg_create_physical_replication_slot(s, true, true); "
            "END LOOP; END $$",
            at="replicas",
        ),
        tells="lacks the slots",
    ),
    _thing(
        "slots-of-members-made-logical",
        sql(
            f"DO $$ DECLARE s name; BEGIN {_EACH_MEMBERS_SLOT}; PERFORM pg_create_logical_replication_slot(s, 'pgoutput'); "
            "END LOOP; END $$",
            at="replicas",
        ),
        tells="lacks the slots",
        since=16,
    ),
    # Room for them is their owner's to make: what is there was made by somebody who may.
    _thing(
        "slots-of-members-displaced",
        sql(_FILLED, at="replicas"),
        undo=[_SLOTS_BACK],
        ends=Ends.TOLD,
        tells="lacks the slots",
        settle_s=6.0,
    ),
    _thing(
        "slots-exhausted",
        sql("SELECT pg_create_physical_replication_slot('mine' || n) FROM generate_series(1, 18) AS n"),
        undo=[_SLOTS_BACK],
        tells="slot",
    ),
    _thing(
        "slots-exhausted-on-replicas",
        sql("SELECT pg_create_physical_replication_slot('mine' || n, true) FROM generate_series(1, 18) AS n", at="replicas"),
        undo=[_SLOTS_BACK],
    ),
    _thing(
        "slot-of-a-name-like-ours",
        sql("SELECT pg_create_physical_replication_slot('n2_000000', true)"),
        undo=[
            back_everywhere(
                "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = 'n2_000000'"
            )
        ],
    ),
    # Replication.
    _thing("walsenders-exhausted", walsenders(30), fast=True),
    _thing("walsender-never-reads", walsenders(1, "START_REPLICATION PHYSICAL 0/3000000")),
    _thing("terminate-everybody", loop(f"SELECT pg_terminate_backend(pid) {_OTHERS}"), locks_out=True),
    _thing("cancel-everybody", loop(f"SELECT pg_cancel_backend(pid) {_OTHERS}"), tells="streaming|heartbeat|commit|cancel"),
    _thing(
        "terminate-ours",
        loop("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename LIKE 'endpointd%'", pause_s=0.2),
    ),
    _thing(
        "terminate-ours-on-replicas",
        loop(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename LIKE 'endpointd%'", pause_s=0.1, at="replicas"
        ),
        tells="log ?in|slot",
    ),
    _thing("replay-paused", sql("SELECT pg_wal_replay_pause()", at="replicas"), fast=True),
    _thing("replay-paused-loop", loop("SELECT pg_wal_replay_pause()", at="replicas")),
    _thing("promoted-by-hand", sql("SELECT pg_promote(false)", at="reader")),
    _thing(
        "subscription-to-itself",
        sql("CREATE PUBLICATION everything FOR ALL TABLES"),
        undo=[back("DROP PUBLICATION IF EXISTS everything", database="postgres")],
    ),
    # Orders to the server, again and again.
    _thing("reload-loop", loop("SELECT pg_reload_conf()", pause_s=0.01)),
    _thing("rotate-logfile", loop("SELECT pg_rotate_logfile()")),
    _thing("switch-wal-loop", loop("SELECT pg_switch_wal()", "SELECT pg_logical_emit_message(false, 'x', 'y')")),
    _thing("checkpoint-loop", loop("CHECKPOINT", pause_s=0.01)),
    _thing(
        "heartbeat-flood",
        loop(
            "SELECT pg_logical_emit_message(true, 'endpointd', 'heartbeat of epoch ' || n) FROM generate_series(1, 1000) AS n",
            count=3,
        ),
    ),
    _thing("memory-contexts-loop", loop(f"SELECT pg_log_backend_memory_contexts(pid) {_OTHERS}", pause_s=0.2)),
    _thing("backup-left-open", held("SELECT pg_backup_start('mine', true)")),
    _thing("statistics-reset", loop("SELECT pg_stat_reset(), pg_stat_reset_shared('wal')")),
    # Room.
    _thing("connections-exhausted", held("SELECT pg_sleep(600)", count=150), locks_out=True, fast=True),
    _thing("connections-exhausted-on-replicas", held("SELECT pg_sleep(600)", count=120, at="replicas")),
    _thing("advisory-locks", held("SELECT count(pg_advisory_lock(n)) FROM generate_series(1, 5000) AS n")),
    _thing(
        "locks-exhausted",
        held("BEGIN", "SELECT count(pg_advisory_xact_lock(n)) FROM generate_series(1, 1000000) AS n", count=2),
    ),
    _thing(
        "notify-queue",
        held("LISTEN x", "BEGIN", "SELECT 1"),
        loop("SELECT count(pg_notify('x', repeat('y', 7000) || n)) FROM generate_series(1, 300) AS n"),
    ),
    _thing("statement-huge-invalid", loop("SELEC " + "x" * 30_000_000, pause_s=0.5, must_fail=True), settle_s=4.0),
    _thing(
        "large-objects",
        sql("SELECT count(lo_create(0)) FROM generate_series(1, 5000)"),
        undo=[back("SELECT count(lo_unlink(oid)) FROM pg_largeobject_metadata", database="postgres")],
    ),
    _thing("temporary-tables", held("CREATE TEMP TABLE t AS SELECT generate_series(1, 200000) AS n", "SELECT 1", count=3)),
    _thing(
        "transaction-left-open",
        held("BEGIN ISOLATION LEVEL REPEATABLE READ", "CREATE TABLE public.open (n int)", "SELECT txid_current()"),
    ),
    _thing(
        "subtransactions",
        held(
            "BEGIN",
            "DO $$ BEGIN FOR n IN 1..5000 LOOP BEGIN PERFORM txid_current(); "
            "EXCEPTION WHEN OTHERS THEN NULL; END; END LOOP; END $$",
            "SELECT 1",
        ),
    ),
    # Databases.
    _thing(
        "database-dropped",
        sql("DROP DATABASE postgres WITH (FORCE)", database="template1"),
        undo=[back("CREATE DATABASE postgres TEMPLATE template0")],
        fast=True,
    ),
    _thing(
        "database-renamed",
        sql("ALTER DATABASE postgres RENAME TO mine", database="template1"),
        undo=[back("ALTER DATABASE mine RENAME TO postgres")],
    ),
    _thing(
        "database-no-connections",
        sql("ALTER DATABASE postgres ALLOW_CONNECTIONS false", database="template1"),
        undo=[back("ALTER DATABASE postgres ALLOW_CONNECTIONS true")],
        tells="postgres|database|log ?in",
    ),
    _thing(
        "database-no-connections-in-catalog",
        sql(_SYSTEM, "UPDATE pg_database SET datallowconn = false WHERE datname NOT IN ('keeper')", database="template1"),
        undo=[back(_SYSTEM, "UPDATE pg_database SET datallowconn = true WHERE datname <> 'template0'")],
        tells="database|log ?in",
    ),
    _thing(
        "database-connection-limit",
        sql("ALTER DATABASE postgres CONNECTION LIMIT 0"),
        undo=[back("ALTER DATABASE postgres CONNECTION LIMIT -1")],
    ),
    _thing(
        "database-invalid",
        sql(_SYSTEM, "UPDATE pg_database SET datconnlimit = -2 WHERE datname = 'postgres'", database="template1"),
        undo=[back(_SYSTEM, "UPDATE pg_database SET datconnlimit = -1 WHERE datname = 'postgres'")],
        tells="database|log ?in",
    ),
    _thing(
        "database-connect-revoked",
        sql("REVOKE CONNECT ON DATABASE postgres FROM PUBLIC"),
        undo=[back("GRANT CONNECT ON DATABASE postgres TO PUBLIC")],
        fast=True,
    ),
    _thing(
        "database-connect-revoked-everywhere",
        sql("REVOKE CONNECT ON DATABASE postgres FROM PUBLIC", "REVOKE CONNECT ON DATABASE template1 FROM PUBLIC"),
        undo=[back("GRANT CONNECT ON DATABASE postgres, template1 TO PUBLIC")],
    ),
    _thing(
        "template1-dropped",
        sql("ALTER DATABASE template1 IS_TEMPLATE false", "DROP DATABASE template1 WITH (FORCE)"),
        undo=[back("CREATE DATABASE template1 TEMPLATE template0 IS_TEMPLATE true")],
    ),
    _thing(
        "template1-trapped",
        sql(
            "CREATE FUNCTION public.pg_current_wal_flush_lsn() RETURNS pg_lsn LANGUAGE sql AS $$ SELECT '0/1'::pg_lsn $$",
            database="template1",
        ),
        undo=[back("DROP FUNCTION public.pg_current_wal_flush_lsn()", database="template1")],
    ),
    _thing(
        "databases-come-and-go",
        loop("CREATE DATABASE passing STRATEGY file_copy", "DROP DATABASE passing"),
        undo=[back("DROP DATABASE IF EXISTS passing")],
    ),
    _thing(
        "database-owned-by-plain-role",
        sql(
            _APP,
            "ALTER DATABASE postgres OWNER TO app",
        ),
        undo=[back("ALTER DATABASE postgres OWNER TO postgres")],
    ),
    # Privileges and definitions of what is PostgreSQL's own.
    _thing(
        "execute-revoked",
        sql(_OF_FUNCTIONS.format(order="REVOKE", preposition="FROM")),
        undo=[back(_OF_FUNCTIONS.format(order="GRANT", preposition="TO"), database="postgres")],
    ),
    _thing(
        "schema-usage-revoked",
        sql("REVOKE USAGE ON SCHEMA pg_catalog FROM PUBLIC"),
        undo=[back("GRANT USAGE ON SCHEMA pg_catalog TO PUBLIC", database="postgres")],
    ),
    _thing(
        "statistics-views-revoked",
        sql("REVOKE SELECT ON pg_stat_replication, pg_replication_slots, pg_stat_activity, pg_settings FROM PUBLIC"),
        undo=[
            back(
                "GRANT SELECT ON pg_stat_replication, pg_replication_slots, pg_stat_activity, pg_settings TO PUBLIC",
                database="postgres",
            )
        ],
    ),
    _replaced("pg_is_in_recovery()", "bool", "SELECT true", "pg_is_in_recovery", fast=True),
    _replaced("pg_current_wal_flush_lsn()", "pg_lsn", "SELECT '0/1'::pg_lsn", "pg_current_wal_flush_lsn"),
    _replaced("pg_wal_replay_resume()", "void", "SELECT", "pg_wal_replay_resume"),
    # The same, and more, in the database that noded's own sessions are in.
    _replaced("pg_is_in_recovery()", "bool", "SELECT true", "pg_is_in_recovery", OURS),
    _replaced("pg_current_wal_flush_lsn()", "pg_lsn", "SELECT '0/1'::pg_lsn", "pg_current_wal_flush_lsn", OURS),
    # noded makes it again.
    _thing("ours-dropped", sql(f"DROP DATABASE {OURS} WITH (FORCE)")),
    _thing(
        "ours-renamed",
        loop(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{OURS}'", pause_s=0.01),
        loop(f"ALTER DATABASE {OURS} RENAME TO not_ours", pause_s=0.01),
        undo=[back("DROP DATABASE IF EXISTS not_ours WITH (FORCE)")],
        tells="database|log ?in",
    ),
    _thing(
        "ours-no-connections",
        sql(f"ALTER DATABASE {OURS} ALLOW_CONNECTIONS false"),
        undo=[back(f"ALTER DATABASE {OURS} ALLOW_CONNECTIONS true")],
    ),
    _thing(
        "ours-and-postgres-dropped",
        sql(f"DROP DATABASE {OURS} WITH (FORCE)", "DROP DATABASE postgres WITH (FORCE)", database="template1"),
        undo=[back("CREATE DATABASE postgres TEMPLATE template0")],
    ),
    _thing(
        "ours-set-role",
        sql(_APP, f"ALTER DATABASE {OURS} SET role = app", f"ALTER DATABASE {OURS} SET statement_timeout = 1"),
        undo=[back(f"ALTER DATABASE {OURS} RESET ALL")],
    ),
    _thing(
        "ours-connect-revoked",
        sql(f"REVOKE ALL ON DATABASE {OURS} FROM PUBLIC, endpointd, endpointd_replication, endpointd_probe"),
        undo=[back(f"GRANT CONNECT ON DATABASE {OURS} TO endpointd, endpointd_replication, endpointd_probe")],
    ),
    _thing(
        "ours-login-trigger",
        sql(
            _SLEEPS,
            "CREATE EVENT TRIGGER waits ON login EXECUTE FUNCTION public.wait()",
            "ALTER EVENT TRIGGER waits ENABLE ALWAYS",
            database=OURS,
        ),
        undo=[back("DROP EVENT TRIGGER IF EXISTS waits", database=OURS)],
        since=17,
    ),
    *(_locked_in_ours(catalog) for catalog in ("pg_class", "pg_proc", "pg_type", "pg_attribute", "pg_index", "pg_operator")),
    _thing("ours-occupied", held("SELECT pg_sleep(600)", count=60, database=OURS)),
    _thing(
        "function-ambiguous",
        sql(f"CREATE FUNCTION pg_catalog.pg_current_wal_flush_lsn(n int DEFAULT 0) RETURNS pg_lsn {_WRONG_LSN}"),
        undo=[back("DROP FUNCTION pg_catalog.pg_current_wal_flush_lsn(int)", database="postgres")],
    ),
    _thing(
        "view-renamed",
        sql(_SYSTEM, "ALTER VIEW pg_catalog.pg_stat_replication RENAME TO hidden"),
        undo=[back(_SYSTEM, "ALTER VIEW pg_catalog.hidden RENAME TO pg_stat_replication", database="postgres")],
    ),
    _thing(
        "traps-in-public",
        sql(
            "CREATE FUNCTION public.pg_is_in_recovery() RETURNS bool LANGUAGE sql AS 'SELECT true'",
            "ALTER DATABASE postgres SET search_path = public, pg_catalog",
        ),
        undo=[back("DROP FUNCTION public.pg_is_in_recovery()", "ALTER DATABASE postgres RESET ALL", database="postgres")],
    ),
    _thing(
        "commits-relaxed-by-function",
        sql("CREATE FUNCTION public.fast() RETURNS int LANGUAGE sql SET synchronous_commit = off AS 'SELECT 1'"),
        undo=[back("DROP FUNCTION IF EXISTS public.fast()", database="postgres")],
    ),
    _thing("commits-relaxed-in-session", loop("SET synchronous_commit = off", "SELECT txid_current()")),
    _thing(
        "listener-of-everything",
        sql("CREATE PUBLICATION all_of_it FOR ALL TABLES"),
        undo=[back("DROP PUBLICATION IF EXISTS all_of_it", database="postgres")],
    ),
)


def things(major: int = 99) -> tuple[Thing, ...]:
    """Return what a tenant can do to PostgreSQL *major*."""
    return tuple(thing for thing in _THINGS if thing.since <= major <= thing.until or major == 99)


def choose(names: Sequence[str]) -> tuple[Thing, ...]:
    """Return the things whose names match one of *names*, which may have wildcards; all without any. Raises ValueError."""
    for name in names:
        if not any(fnmatch.fnmatch(thing.name, name) for thing in _THINGS):
            raise ValueError(f'there is no thing "{name}"; --list names them')
    return tuple(thing for thing in _THINGS if not names or any(fnmatch.fnmatch(thing.name, name) for name in names))
