"""PostgreSQL's own tests, file by file in the order of their schedule, run as its pg_regress and pg_isolation_regress run them.

The argument is src/test/regress or src/test/isolation, with what their tests need built beside them.  Of a file that printed
what PostgreSQL's authors expect that is told; of any other a digest of what it printed.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
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
class Kind:
    """Which of the two it is."""

    schedule: str
    given: str
    """A file's place, by its name."""
    command: tuple[str, ...]
    application: str


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
    if tests.name == "isolation":
        driver = (str(tests / "isolationtester"), f"dbname={database}")
        kind = Kind("isolation_schedule", "specs/{}.spec", driver, "isolation")
    else:
        kind = Kind("parallel_schedule", "sql/{}.sql", (*psql, "-a", *VARIABLES), "pg_regress")
    for name in scheduled((tests / kind.schedule).read_text()):
        result = kept / f"{name}.out"
        named = variables | {"PGAPPNAME": f"{kind.application}/{name}"}
        if has_ended(kind.command, tests / kind.given.format(name), named, result):
            seen = outcome(result.read_bytes(), expected(name, tests), (tests, place))
        else:
            seen = f"no end after {DEADLINE_S:g} s"
        print(f"{name}\t{seen}", flush=True)
    return 0


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


def has_ended(command: tuple[str, ...], given: Path, variables: dict[str, str], result: Path) -> bool:
    """Run *command* on a file, and return whether it came to its end; *result* gets all it prints."""
    with given.open("rb") as script, result.open("wb") as said:
        try:
            subprocess.run(
                command, stdin=script, stdout=said, stderr=subprocess.STDOUT, env=variables, timeout=DEADLINE_S, check=False
            )
        except subprocess.TimeoutExpired:
            return False
    return True


def expected(name: str, tests: Path) -> list[bytes]:
    """Return what PostgreSQL's authors expect: one text, or one for each kind of machine."""
    named = re.compile(rf"{re.escape(name)}(_\d)?\.out")
    return [file.read_bytes() for file in (tests / "expected").iterdir() if named.fullmatch(file.name)]


def outcome(result: bytes, expected: list[bytes], folders: tuple[Path, ...]) -> str:
    """Return what is told of a file's output; names of *folders* make no difference."""
    if result in expected:
        return "as expected"
    for folder in folders:
        result = result.replace(str(folder).encode(), b"FOLDER")
    return f"printed {hashlib.sha256(result).hexdigest()[:12]}"


if __name__ == "__main__":
    sys.exit(main())
