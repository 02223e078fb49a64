"""The suites: what each is, where it comes from, and how it is told which server to use.

Versions are pinned, so that two scores can be compared; what is Debian's is in the version that the machine has.  Most packages
ship no tests in what is installed, but these four do in their source distribution; for drivers that ship none anywhere there
are programs of our own.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from tests.compat.server import Server, Way

Variables = Callable[[Server], dict[str, str]]
Arguments = Callable[[Server], tuple[str, ...]]


def _nothing(_server: Server) -> dict[str, str]:
    return {}


def _no_arguments(_server: Server) -> tuple[str, ...]:
    return ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Suite:
    """One suite: either pytest on a source distribution's tests, or a program of ours."""

    name: str
    about: str
    ways: tuple[Way, ...] = tuple(Way)
    """How it can be told to speak."""
    packages: tuple[str, ...] = ()
    """Pinned, for a virtual environment of Python or for Node."""
    debian: tuple[str, ...] = ()
    """Packages of Debian that it takes, in whatever version there is."""
    needs: tuple[str, ...] = ()
    """What of them must be there: programs, and files by their paths."""
    source: str | None = None
    """The pinned source distribution with the tests."""
    keep: tuple[str, ...] = ()
    """What of the source is needed; all of it if nothing is named."""
    tests: tuple[str, ...] = ()
    """pytest's arguments."""
    program: str | None = None
    """A file in programs/ (Python, Node, Go or Java), which prints a line per observation: its name, a tab, what was seen."""
    go_packages: tuple[str, ...] = ()
    """Whose own tests are run, by go_tests.py."""
    upstream: str | None = None
    """The folder of PostgreSQL's source with the tests that the program runs, on a server of that version."""
    extensions: tuple[str, ...] = ()
    """That must be in the database."""
    schemas: tuple[str, ...] = ()
    database: str = "compat"
    variables: Variables = field(default=_nothing)
    arguments: Arguments = field(default=_no_arguments)
    deadline_s: float = 900.0
    """Of one side; what has not ended by then is a difference."""


PYTEST = (
    "pytest==9.2.0",
    "pytest-timeout==2.4.0",
    "pytest-benchmark==5.3.1",
    "pytest-mock==3.17.0",
    "pytz==2026.6",
    "distro==1.9.0",
)
PSYCOPG2 = "psycopg2-binary==2.9.13"
ASYNCPG = "asyncpg==0.32.0"
PSYCOPG = "psycopg[binary]==3.3.9"
PG8000 = "pg8000==1.31.6"
NODE_PG = "pg@8.23.1"
POSTGRES_JS = "postgres@3.4.9"

JDBC = "/usr/share/java/postgresql.jar"
GOPATH = "/usr/share/gocode"


def _sqlalchemy(driver: str, package: str) -> Suite:
    tls = "ssl" if driver == "asyncpg" else "sslmode"
    return Suite(
        name=f"SQLAlchemy on {driver}",
        about=f"SQLAlchemy's dialect/postgresql and dialect/test_suite, on {driver}",
        packages=("SQLAlchemy[asyncio]==2.1.9" if driver == "asyncpg" else "SQLAlchemy==2.1.9", package),
        source="SQLAlchemy==2.1.9",
        tests=("test/dialect/postgresql", "test/dialect/test_suite.py"),
        extensions=("hstore", "citext"),
        schemas=("test_schema", "test_schema_2"),
        arguments=lambda server: ("--dburi", server.uri(f"postgresql+{driver}", tls=tls)),
        deadline_s=2400.0,
    )


def _upstream(folder: str, about: str, *, database: str, ways: tuple[Way, ...] = tuple(Way)) -> Suite:
    return Suite(
        name=f"PostgreSQL {folder.rpartition('/')[2]}",
        about=about,
        ways=ways,
        debian=("apt", "gcc", "libc6-dev"),
        needs=("apt-get", "apt-cache", "apt-config", "gcc"),
        program="upstream_tests.py",
        upstream=f"src/test/{folder}",
        database=database,
    )


SUITES = (
    Suite(
        name="psycopg2",
        about="psycopg2's own tests, those of replication and of two-phase commit among them",
        packages=(PSYCOPG2,),
        source="psycopg2==2.9.13",
        keep=("tests",),
        tests=("tests",),
        extensions=("hstore",),
        variables=lambda server: {
            "PSYCOPG2_TESTDB": server.database,
            "PSYCOPG2_TEST_REPL_DSN": "",
        },
    ),
    Suite(
        name="asyncpg",
        about="asyncpg's own tests, but for those of a server that they start themselves",
        packages=(ASYNCPG,),
        source="asyncpg==0.32.0",
        keep=("tests",),
        tests=("tests", "--ignore=tests/test__sourcecode.py", "--ignore=tests/test_subinterpreters.py"),
    ),
    Suite(
        name="pg8000",
        about="pg8000's own tests, but for those that want a pg_hba.conf of their own",
        ways=(Way.PLAIN, Way.PGBOUNCER, Way.POOLED),
        packages=(PG8000,),
        source="pg8000==1.31.6",
        keep=("test", "README.md"),
        tests=("test", "--ignore-glob=*auth*"),
        extensions=("hstore",),
        database="postgres",
    ),
    Suite(
        name="psycopg",
        about="psycopg 3 and libpq 18: pipelines, executemany, COPY, cursors, notifications, cancelling; a program of ours",
        packages=(PSYCOPG,),
        program="psycopg3/__main__.py",
    ),
    Suite(
        name="libpq",
        about="the same program on the libpq that is installed here (Debian 12 has 15), by psycopg 3 in Python alone",
        packages=("psycopg==3.3.9",),
        debian=("libpq5",),
        needs=("libpq.so.5",),
        program="psycopg3/__main__.py",
        variables=lambda _server: {"PSYCOPG_IMPL": "python"},
    ),
    Suite(
        name="pgjdbc",
        about="PostgreSQL's JDBC driver: query modes, batches, cursors, COPY, XA, a logical stream; a program of ours",
        debian=("libpostgresql-jdbc-java", "default-jdk-headless"),
        needs=("javac", "java", JDBC),
        program="java/Pgjdbc.java",
    ),
    Suite(
        name="lib/pq tests",
        about="lib/pq's own tests and those of its hstore",
        debian=("golang-github-lib-pq-dev", "golang-go"),
        needs=("go", f"{GOPATH}/src/github.com/lib/pq/conn_test.go"),
        program="go_tests.py",
        go_packages=("github.com/lib/pq", "github.com/lib/pq/hstore"),
    ),
    Suite(
        name="pgx tests",
        about="pgx 4's own tests and those of pgxpool; those of pgconn and stdlib want what Debian has not",
        debian=("golang-github-jackc-pgx-v4-dev", "golang-go"),
        needs=("go", f"{GOPATH}/src/github.com/jackc/pgx/v4/conn_test.go"),
        program="go_tests.py",
        go_packages=("github.com/jackc/pgx/v4", "github.com/jackc/pgx/v4/pgxpool"),
        extensions=("hstore",),
        variables=lambda server: {"PGX_TEST_DATABASE": server.uri()},
    ),
    Suite(
        name="pgx",
        about="pgx 4 for Go: batches, COPY, cancelling, pools, notifications; a program of ours",
        debian=("golang-github-jackc-pgx-v4-dev", "golang-go"),
        needs=("go", f"{GOPATH}/src/github.com/jackc/pgx/v4"),
        program="go/pgx.go",
    ),
    Suite(
        name="lib/pq",
        about="lib/pq for Go, through database/sql; a program of ours",
        debian=("golang-github-lib-pq-dev", "golang-go"),
        needs=("go", f"{GOPATH}/src/github.com/lib/pq"),
        program="go/pq.go",
    ),
    Suite(
        name="tools",
        about="psql with ^C at a terminal, pgbench, pg_dump, pg_restore, pg_basebackup, a subscription; a program of ours",
        program="tools.py",
    ),
    Suite(
        name="node-postgres",
        about="pg 8 for Node: queries, cursors by hand, LISTEN, errors, an end right after the connect; a program of ours",
        packages=(NODE_PG,),
        program="node_pg.cjs",
    ),
    Suite(
        name="postgres.js",
        about="postgres 3 for Node: pipelined queries, cursors, LISTEN, cancelling; a program of ours",
        packages=(POSTGRES_JS,),
        program="postgres_js.cjs",
    ),
    _upstream("regress", "PostgreSQL's own regression tests, file by file in their order, by its psql", database="regression"),
    _upstream(
        "isolation",
        "PostgreSQL's own isolation tests: several sessions, step by step",
        database="isolation_regression",
        ways=(Way.PLAIN, Way.TLS),  # who waits for whom is asked by the numbers of server processes, which PgBouncer makes up
    ),
    _upstream("modules/libpq_pipeline", "PostgreSQL's own tests of libpq's pipelines, message by message", database="compat"),
    _sqlalchemy("psycopg2", PSYCOPG2),
    _sqlalchemy("psycopg", PSYCOPG),
    _sqlalchemy("asyncpg", ASYNCPG),
)


def choose(patterns: Sequence[str]) -> tuple[Suite, ...]:
    """Return the suites that one of *patterns* names (all without any). Raises ValueError for one that names none."""
    for pattern in patterns:
        if not any(fnmatch.fnmatchcase(suite.name, pattern) for suite in SUITES):
            raise ValueError(f'no suite is called "{pattern}"; there are {", ".join(suite.name for suite in SUITES)}')
    return tuple(suite for suite in SUITES if not patterns or any(fnmatch.fnmatchcase(suite.name, each) for each in patterns))
