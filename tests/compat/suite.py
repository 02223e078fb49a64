"""The suites: what each is, where it comes from, and how it is told which server to use.

Versions are pinned, so that two scores can be compared.  Most packages ship no tests in what is installed, but these four do in
their source distribution; for drivers that ship none anywhere there are programs of our own.
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
    ways: tuple[Way, ...] = (Way.PLAIN, Way.TLS)
    """How it can be told to speak."""
    packages: tuple[str, ...] = ()
    """Pinned, for a virtual environment of Python or for Node."""
    source: str | None = None
    """The pinned source distribution with the tests."""
    keep: tuple[str, ...] = ()
    """What of the source is needed; all of it if nothing is named."""
    tests: tuple[str, ...] = ()
    """pytest's arguments."""
    program: str | None = None
    """A file in programs/, which prints a line per observation: its name, a tab, what was seen."""
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
        ways=(Way.PLAIN,),
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
        name="tools",
        about="psql with ^C at a terminal, pgbench, pg_dump, pg_restore, pg_basebackup, pg_receivewal; a program of ours",
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
    Suite(
        name="SQLAlchemy",
        about="SQLAlchemy's dialect/postgresql and dialect/test_suite, on psycopg2",
        packages=("SQLAlchemy==2.1.9", PSYCOPG2),
        source="SQLAlchemy==2.1.9",
        tests=("test/dialect/postgresql", "test/dialect/test_suite.py"),
        extensions=("hstore", "citext"),
        schemas=("test_schema", "test_schema_2"),
        arguments=lambda server: ("--dburi", server.uri("postgresql+psycopg2")),
        deadline_s=2400.0,
    ),
)


def choose(patterns: Sequence[str]) -> tuple[Suite, ...]:
    """Return the suites that one of *patterns* names (all without any). Raises ValueError for one that names none."""
    for pattern in patterns:
        if not any(fnmatch.fnmatchcase(suite.name, pattern) for suite in SUITES):
            raise ValueError(f'no suite is called "{pattern}"; there are {", ".join(suite.name for suite in SUITES)}')
    return tuple(suite for suite in SUITES if not patterns or any(fnmatch.fnmatchcase(suite.name, each) for each in patterns))
