"""Brings what suites need: pinned packages into environments of their own, and source distributions, once into a cache.

Nothing is installed into the product's environment.  What cannot be had is an UnavailableError that names it; nobody is
measured by it.
"""

from __future__ import annotations

import ctypes.util
import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.compat.suite import GOPATH, JDBC, PYTEST, Suite

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
    place = cache / f"python-{digest(wanted)}"
    once(place, lambda new: _make_environment(new, wanted))
    return place / "bin" / "python"


def node_modules(packages: Sequence[str], cache: Path = CACHE) -> Path:
    """Return the directory with *packages* for Node. Raises UnavailableError."""
    for program in ("node", "npm"):
        if shutil.which(program) is None:
            raise UnavailableError(f"there is no {program}")
    place = cache / f"node-{digest(packages)}"
    once(place, lambda new: _make_modules(new, packages))
    return place / "node_modules"


def check(suite: Suite) -> None:
    """Raise UnavailableError if what *suite* takes from the machine is not there."""
    for each in suite.needs:
        there = _is_library(each) if ".so" in each else Path(each).exists() if "/" in each else shutil.which(each) is not None
        if not there:
            raise UnavailableError(f"there is no {each} (Debian: apt-get install {' '.join(suite.debian)})")


def _is_library(name: str) -> bool:
    return ctypes.util.find_library(name.removeprefix("lib").partition(".so")[0]) == name


def installed(suite: Suite) -> tuple[str, ...]:
    """Return the packages that *suite* was measured with, and their versions as far as they can be told."""
    if not suite.debian or shutil.which("dpkg-query") is None:
        return (*suite.packages, *suite.debian)
    asked = ["dpkg-query", "--show", "--showformat=${Package}==${Version}\\n", *suite.debian]
    said = subprocess.run(asked, capture_output=True, text=True, timeout=TIMEOUT_S, check=False).stdout.splitlines()
    return (*suite.packages, *said)


def go_program(file: Path, cache: Path = CACHE) -> Path:
    """Return *file*, built with what its folder has in common, of Debian's packages alone. Raises UnavailableError."""
    parts = (file.with_name("observing.go"), file)
    place = cache / f"go-{digest([part.read_text() for part in parts])}"
    once(place, lambda _: _go(f"a build of {file.name}", cache, "build", "-o", str(place / "program"), *map(str, parts)))
    return place / "program"


def go_tests(package: str, cache: Path = CACHE) -> tuple[Path, Path]:
    """Return the program of a package's own tests, and where its source is. Raises UnavailableError."""
    folder = Path(GOPATH, "src", package)
    place = cache / f"go-{digest([part.read_text() for part in sorted(folder.glob('*.go'))])}"
    once(place, lambda _: _go(f"the tests of {package}", cache, "test", "-c", "-o", str(place / "tests"), package))
    return place / "tests", folder


def _go(what: str, cache: Path, *arguments: str) -> None:
    settings = {"GO111MODULE": "off", "GOPATH": GOPATH, "GOFLAGS": "", "CGO_ENABLED": "0", "GOCACHE": str(cache / "go-build")}
    attempt(what, ["go", *arguments], more=settings)


def java_program(file: Path, cache: Path = CACHE) -> list[str]:
    """Return the command that runs *file*. Raises UnavailableError."""
    place = cache / f"java-{digest([file.read_text()])}"
    once(place, lambda new: attempt(f"a build of {file.name}", ["javac", "-d", str(new), "-cp", JDBC, str(file)]))
    return ["java", "-cp", f"{place}:{JDBC}", file.stem]


def source(suite: Suite, cache: Path = CACHE) -> Path:
    """Return the unpacked source distribution. Raises UnavailableError."""
    assert suite.source is not None
    place = cache / f"source-{suite.source}"
    once(place, lambda new: _unpack(new, suite.source or ""))
    return place


def digest(requirements: Sequence[str]) -> str:
    text = " ".join((sys.version.split()[0], *requirements))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def once(place: Path, make: Callable[[Path], object]) -> None:
    """Have *make* fill *place*, which is marked when it is whole; what was left half done is made anew."""
    mark = place / ".whole"
    if mark.exists():
        return
    shutil.rmtree(place, ignore_errors=True)
    place.parent.mkdir(parents=True, exist_ok=True)
    make(place)
    mark.touch()


def _make_environment(place: Path, requirements: Sequence[str]) -> None:
    attempt("a virtual environment", [sys.executable, "-m", "venv", str(place)])
    pip = [str(place / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    attempt(", ".join(requirements), [*pip, "--only-binary=:all:", *requirements])


def _make_modules(place: Path, requirements: Sequence[str]) -> None:
    place.mkdir()
    (place / "package.json").write_text('{"private": true}\n')
    attempt(
        ", ".join(requirements), ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", *requirements], cwd=place
    )


def _unpack(place: Path, requirement: str) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "pg_config").write_text(PG_CONFIG)
        (folder / "pg_config").chmod(0o755)
        project = requirement.partition("==")[0]
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet", "--no-deps"]
        searched = {"PATH": f"{folder}:{os.environ.get('PATH', os.defpath)}"}
        attempt(f"the source of {requirement}", [*pip, f"--no-binary={project}", "--dest", name, requirement], more=searched)
        (archive,) = folder.glob("*.tar.gz")
        unpack(archive, folder / "unpacked")
        (unpacked,) = (folder / "unpacked").iterdir()
        shutil.copytree(unpacked, place)


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a release of a known project, whatever it is compressed with."""
    with tarfile.open(archive) as tar:
        if hasattr(tarfile, "data_filter"):
            tar.extractall(folder, filter="data")
        else:  # Python before 3.11.4
            tar.extractall(folder)  # noqa: S202 - its sum was checked by who fetched it


def attempt(what: str, command: list[str], *, cwd: Path | None = None, more: dict[str, str] | None = None) -> str:
    """Run *command*, which brings *what*, and return what it printed. Raises UnavailableError."""
    try:
        done = subprocess.run(
            command, cwd=cwd, env={**os.environ, **(more or {})}, check=True, capture_output=True, text=True, timeout=TIMEOUT_S
        )
    except subprocess.CalledProcessError as error:
        said = [line for line in error.stderr.strip().splitlines() if "WARNING" not in line]
        raise UnavailableError(f"{what} cannot be had: {' '.join(said)[-300:]}") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UnavailableError(f"{what} cannot be had: {error}") from error
    return done.stdout
