"""Where the programs come from that Patroni's side needs: Patroni in a venv of its own, etcd and HAProxy from the system.

The venv is made once, beside the project's own and never in it: Patroni's dependencies are no business of ours.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

REQUIREMENT = "patroni[psycopg3,etcd3]>=4.1,<5"
INSTALL_TIMEOUT_S = 600.0


class MissingError(Exception):
    """A program is not to be had; the text says which and how to get it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Programs:
    """What Patroni's side runs."""

    venv: Path
    etcd: str
    haproxy: str | None
    """None: clients find the primary themselves."""

    @property
    def patroni(self) -> str:
        """The daemon."""
        return str(self.venv / "bin" / "patroni")

    @property
    def patronictl(self) -> str:
        """The operator's program."""
        return str(self.venv / "bin" / "patronictl")

    def versions(self) -> dict[str, str]:
        """Return the version of each program, by its name."""
        found = {"patroni": _first_line(self.patroni, "--version"), "etcd": _first_line(self.etcd, "--version")}
        if self.haproxy is not None:
            found["haproxy"] = _first_line(self.haproxy, "-v")
        return found


def find_programs(venv: Path) -> Programs:
    """Return the programs; Patroni is installed into *venv* if it is not there. Raises MissingError."""
    etcd = shutil.which("etcd")
    if etcd is None:
        raise MissingError(
            "there is no etcd, which Patroni keeps its lease in; install it (Debian, Ubuntu: etcd-server or etcd)"
        )
    # Debian keeps it where only root's PATH looks.
    haproxy = shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin:/usr/local/sbin")
    _install(venv)
    return Programs(venv=venv, etcd=etcd, haproxy=haproxy)


def _install(venv: Path) -> None:
    stamp = venv / "installed"
    if stamp.exists() and stamp.read_text() == REQUIREMENT:
        return
    try:
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(venv)], check=True, timeout=INSTALL_TIMEOUT_S)
        pip = [str(venv / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", REQUIREMENT]
        subprocess.run(pip, check=True, timeout=INSTALL_TIMEOUT_S)
    except (OSError, subprocess.SubprocessError) as error:
        raise MissingError(f"{REQUIREMENT} could not be installed into {venv}: {error}") from error
    stamp.write_text(REQUIREMENT)


def _first_line(*command: str) -> str:
    answer = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    return (answer.stdout or answer.stderr).partition("\n")[0].strip()
