"""Brings what suites need: pinned packages into environments of their own, and source distributions, once into a cache.

Nothing is installed into the product's environment.  What cannot be had is an UnavailableError that names it; nobody is
measured by it.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.compat.suite import PYTEST, Suite

ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / ".venv" / "compat"
TIMEOUT_S = 300.0

PG_CONFIG = """#!/bin/sh
case "$1" in --version) echo "PostgreSQL 15.0" ;; *) echo /nowhere ;; esac
"""
"""A stand-in: a source's metadata can be read without PostgreSQL, but psycopg2 wants to see a pg_config even for that."""


class UnavailableError(Exception):
    """Something cannot be had here; the text says what, and why."""


def python(packages: Sequence[str], cache: Path = CACHE) -> Path:
    """Return the Python that has *packages*, and pytest. Raises UnavailableError."""
    wanted = (*PYTEST, *packages)
    place = cache / f"python-{_digest(wanted)}"
    _once(place, lambda new: _make_environment(new, wanted))
    return place / "bin" / "python"


def node_modules(packages: Sequence[str], cache: Path = CACHE) -> Path:
    """Return the directory with *packages* for Node. Raises UnavailableError."""
    for program in ("node", "npm"):
        if shutil.which(program) is None:
            raise UnavailableError(f"there is no {program}")
    place = cache / f"node-{_digest(packages)}"
    _once(place, lambda new: _make_modules(new, packages))
    return place / "node_modules"


def source(suite: Suite, cache: Path = CACHE) -> Path:
    """Return the unpacked source distribution. Raises UnavailableError."""
    assert suite.source is not None
    place = cache / f"source-{suite.source}"
    _once(place, lambda new: _unpack(new, suite.source or ""))
    return place


def _digest(requirements: Sequence[str]) -> str:
    text = " ".join((sys.version.split()[0], *requirements))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _once(place: Path, make: Callable[[Path], None]) -> None:
    """Have *make* fill *place*, which is marked when it is whole; what was left half done is made anew."""
    mark = place / ".whole"
    if mark.exists():
        return
    shutil.rmtree(place, ignore_errors=True)
    place.parent.mkdir(parents=True, exist_ok=True)
    make(place)
    mark.touch()


def _make_environment(place: Path, requirements: Sequence[str]) -> None:
    _run("a virtual environment", [sys.executable, "-m", "venv", str(place)])
    pip = [str(place / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    _run(", ".join(requirements), [*pip, "--only-binary=:all:", *requirements])


def _make_modules(place: Path, requirements: Sequence[str]) -> None:
    place.mkdir()
    (place / "package.json").write_text('{"private": true}\n')
    _run(", ".join(requirements), ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", *requirements], cwd=place)


def _unpack(place: Path, requirement: str) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "pg_config").write_text(PG_CONFIG)
        (folder / "pg_config").chmod(0o755)
        project = requirement.partition("==")[0]
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet", "--no-deps"]
        searched = {"PATH": f"{folder}:{os.environ.get('PATH', os.defpath)}"}
        _run(f"the source of {requirement}", [*pip, f"--no-binary={project}", "--dest", name, requirement], more=searched)
        (archive,) = folder.glob("*.tar.gz")
        with tarfile.open(archive) as tar:
            if hasattr(tarfile, "data_filter"):
                tar.extractall(folder / "unpacked", filter="data")
            else:  # Python before 3.11.4
                tar.extractall(folder / "unpacked")  # noqa: S202 - a pinned release of a known package
        (unpacked,) = (folder / "unpacked").iterdir()
        shutil.copytree(unpacked, place)


def _run(what: str, command: list[str], *, cwd: Path | None = None, more: dict[str, str] | None = None) -> None:
    try:
        subprocess.run(
            command, cwd=cwd, env={**os.environ, **(more or {})}, check=True, capture_output=True, text=True, timeout=TIMEOUT_S
        )
    except subprocess.CalledProcessError as error:
        said = [line for line in error.stderr.strip().splitlines() if "WARNING" not in line]
        raise UnavailableError(f"{what} cannot be had: {' '.join(said)[-300:]}") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UnavailableError(f"{what} cannot be had: {error}") from error
