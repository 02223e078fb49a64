"""Runs one side of a suite, in a process group of its own and under a deadline, and keeps what it said."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from tests.compat import fetching
from tests.compat.outcomes import Outcomes, printed, read
from tests.compat.server import Server
from tests.compat.suite import Suite
from tests.compat.upstream import upstream

HERE = Path(__file__).resolve().parent
TEST_TIMEOUT_S = 120
"""Of one test of a third-party suite, where it can be interrupted."""
GRACE_S = 10.0


def fetch(suite: Suite) -> None:
    """Bring what *suite* needs. Raises UnavailableError."""
    fetching.check(suite)
    if suite.source is not None:
        fetching.source(suite)
    _command(suite)


def run(suite: Suite, server: Server, folder: Path, *, only: Sequence[str] = (), tools: Path | None = None) -> Outcomes:
    """Run *suite* against *server* and return what it showed; *folder* gets its output.

    *only*: these tests of it, where it can be told; *tools*: PostgreSQL's client programs.  Raises UnavailableError.
    """
    folder.mkdir(parents=True, exist_ok=True)
    record, log = folder / "record.jsonl", folder / "output.txt"
    record.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(prefix="compat-") as name:
        place = Path(name)
        if suite.source is not None:
            _copy(suite, place)
        command = _command(suite)
        if suite.source is not None:
            command += [*_pytest(suite, only), *suite.arguments(server)]
        with log.open("w") as output:
            ended = _end(command, _environment(suite, server, place, record, tools), place, output, suite.deadline_s)
    if suite.source is None:
        return printed(log.read_text(errors="replace"), has_ended=ended == 0)
    return read(record) if record.exists() else Outcomes({}, has_ended=False)


def _copy(suite: Suite, place: Path) -> None:
    source = fetching.source(suite)
    for name in suite.keep or [each.name for each in source.iterdir()]:
        if (source / name).is_dir():
            shutil.copytree(source / name, place / name)
        elif (source / name).exists():
            shutil.copy(source / name, place)


def _command(suite: Suite) -> list[str]:
    if suite.source is not None:
        return [str(fetching.python(suite.packages))]
    assert suite.program is not None
    file = HERE / "programs" / suite.program
    program = str(file)
    match file.suffix:
        case ".cjs":
            fetching.node_modules(suite.packages)
            return ["node", program]
        case ".go":
            return [str(fetching.go_program(file))]
        case ".java":
            return fetching.java_program(file)
        case _:
            pass
    if suite.upstream is not None:
        return [sys.executable, program, str(upstream(suite).root / suite.upstream)]
    built = ["=".join(map(str, fetching.go_tests(package))) for package in suite.go_packages]
    return [str(fetching.python(suite.packages)) if suite.packages else sys.executable, program, *built]


def _pytest(suite: Suite, only: Sequence[str]) -> list[str]:
    options = [
        "-p",
        "compat_recorder",
        "-p",
        "no:cacheprovider",
        "-q",
        f"--timeout={TEST_TIMEOUT_S}",
        "--timeout-method=signal",
    ]
    return ["-m", "pytest", *options, "--maxfail=100000", "-o", "addopts=", *(only or suite.tests)]


def _environment(suite: Suite, server: Server, place: Path, record: Path, tools: Path | None) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "PYTHON", "NODE_", "COMPAT_"))}
    own = {
        "COMPAT_RECORD": str(record.resolve()),
        "COMPAT_TOOLS": str(tools or ""),
        "COMPAT_WAY": server.way,
        "HOME": str(place),
        "PYTHONPATH": str(HERE / "inside" if suite.source is not None else fetching.ROOT),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    if suite.program is not None and suite.program.endswith(".cjs"):
        own["NODE_PATH"] = str(fetching.node_modules(suite.packages))
    return kept | own | server.environment() | suite.variables(server)


def _end(command: list[str], environment: dict[str, str], place: Path, output: IO[str], deadline_s: float) -> int | None:
    """Run *command* to its end and return its exit code; None if the deadline ended it, and all of its group."""
    process = subprocess.Popen(
        command,
        cwd=place,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        return process.wait(deadline_s)
    except subprocess.TimeoutExpired:
        return None
    finally:
        _end_group(process)


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """End what is left of the group: a suite may leave children behind."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(GRACE_S)
