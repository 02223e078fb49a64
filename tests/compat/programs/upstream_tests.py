"""PostgreSQL's own tests, run as its pg_regress, pg_isolation_regress and 001_libpq_pipeline.pl run them, one after another.

The argument is their folder in the source, with what they need built there.  Of a test that printed what PostgreSQL's authors
expect that is told; of any other a digest of what it printed.  libpq_pipeline prints every message of its session.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

DEADLINE_S = 300.0
"""Of one file; the longest takes some seconds."""
VARIABLES = ("-v", "HIDE_TABLEAM=on", "-v", "HIDE_TOAST_COMPRESSION=on")
SETTINGS = {
    "lc_messages": "C",
    "lc_monetary": "C",
    "lc_numeric": "C",
    "lc_time": "C",
    "bytea_output": "hex",
    "timezone_abbreviations": "Default",
    "intervalstyle": "postgres_verbose",
}
"""Of the database. The last one is for PgBouncer, which takes no options of a session."""


@dataclass(frozen=True, slots=True)
class Test:
    """One of them."""

    name: str
    command: tuple[str, ...]
    given: Path | None = None
    """What is its input."""
    application: str = ""
    trace: Path | None = None
    """What to look at, if it is not what it prints."""
    expected: tuple[Path, ...] = ()
    """Any of which will do; with none it has but to end well."""


def main() -> int:
    """Run them all; whatever they say, it is 0 that they were run."""
    tests, place, kept = Path(sys.argv[1]), Path.cwd(), Path(os.environ["COMPAT_RECORD"]).with_name("results")
    place.chmod(0o755)  # the server, another user if we are root, reads and writes files there
    (place / "results").mkdir()
    (place / "results").chmod(0o777)
    shutil.rmtree(kept, ignore_errors=True)
    kept.mkdir(parents=True)
    psql = (str(Path(os.environ["COMPAT_TOOLS"], "psql")), "-X", "-q")
    variables = environment(tests, place)
    database = variables["PGDATABASE"]
    for name, value in SETTINGS.items():
        subprocess.run([*psql, "-c", f"alter database {database} set {name} = '{value}'"], env=variables, check=True)
    match tests.name:
        case "isolation":
            found = isolation(tests, database)
        case "libpq_pipeline":
            found = pipelines(tests, database, kept)
        case _:
            found = regression(tests, (*psql, "-a", *VARIABLES))
    for test in found:
        print(f"{test.name}\t{observe(test, variables, kept, (tests, place))}", flush=True)
    return 0


def regression(tests: Path, psql: tuple[str, ...]) -> Iterator[Test]:
    """Yield the tests of src/test/regress."""
    for name in scheduled((tests / "parallel_schedule").read_text()):
        yield Test(name, psql, tests / "sql" / f"{name}.sql", f"pg_regress/{name}", expected=alternatives(name, tests))


def isolation(tests: Path, database: str) -> Iterator[Test]:
    """Yield the tests of src/test/isolation."""
    driver = (str(tests / "isolationtester"), f"dbname={database}")
    for name in scheduled((tests / "isolation_schedule").read_text()):
        yield Test(name, driver, tests / "specs" / f"{name}.spec", f"isolation/{name}", expected=alternatives(name, tests))


def pipelines(tests: Path, database: str, kept: Path) -> Iterator[Test]:
    """Yield the tests of src/test/modules/libpq_pipeline, with traces where their authors keep some."""
    driver = (str(tests / "libpq_pipeline"), "-r", "700")
    listed = subprocess.run([driver[0], "tests"], capture_output=True, text=True, check=True).stdout
    for name in listed.split():
        wanted, trace = tests / "traces" / f"{name}.trace", kept / f"{name}.trace"
        if wanted.exists():
            yield Test(name, (*driver, "-t", str(trace), name, f"dbname={database}"), trace=trace, expected=(wanted,))
        else:
            yield Test(name, (*driver, name, f"dbname={database}"))


def scheduled(text: str) -> list[str]:
    """Return the names of the tests of a schedule, in its order."""
    return [name for line in text.splitlines() if line.startswith("test:") for name in line.removeprefix("test:").split()]


def environment(tests: Path, place: Path) -> dict[str, str]:
    """Return what pg_regress sets, on top of where to log in."""
    kept = {name: value for name, value in os.environ.items() if name not in ("LANGUAGE", "LC_ALL", "PGCLIENTENCODING")}
    options = {} if kept["COMPAT_WAY"] == "pgbouncer" else {"PGOPTIONS": "-c intervalstyle=postgres_verbose"}
    return kept | {
        "LC_MESSAGES": "C",
        "PG_ABS_BUILDDIR": str(place),
        "PG_ABS_SRCDIR": str(tests),
        "PG_DLSUFFIX": ".so",
        "PG_LIBDIR": str(tests),
        "PGDATESTYLE": "Postgres, MDY",
        "PGTZ": "America/Los_Angeles",
        **options,
    }


def alternatives(name: str, tests: Path) -> tuple[Path, ...]:
    """Return the outputs that a file's authors expect: one, or one for each kind of machine."""
    named = re.compile(rf"{re.escape(name)}(_\d)?\.out")
    return tuple(file for file in (tests / "expected").iterdir() if named.fullmatch(file.name))


def observe(test: Test, variables: dict[str, str], kept: Path, folders: tuple[Path, ...]) -> str:
    """Run *test* and return what is told of it; its output goes to *kept*."""
    said = kept / f"{test.name}.out"
    with (test.given or Path(os.devnull)).open("rb") as script, said.open("wb") as output:
        try:
            done = subprocess.run(
                test.command,
                stdin=script,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=variables | ({"PGAPPNAME": test.application} if test.application else {}),
                timeout=DEADLINE_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return f"no end after {DEADLINE_S:g} s"
    if test.given is None and done.returncode == 0 and test.trace is None:
        return "as expected"
    look_at = test.trace if test.trace is not None and done.returncode == 0 else said
    return outcome(look_at.read_bytes(), [each.read_bytes() for each in test.expected], folders)


def outcome(result: bytes, expected: list[bytes], folders: tuple[Path, ...]) -> str:
    """Return what is told of an output; names of *folders* make no difference."""
    if result in expected:
        return "as expected"
    for folder in folders:
        result = result.replace(str(folder).encode(), b"FOLDER")
    return f"printed {hashlib.sha256(result).hexdigest()[:12]}"


if __name__ == "__main__":
    sys.exit(main())
