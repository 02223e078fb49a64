"""PostgreSQL is started where a chmod to the modes of a data directory fails, and nothing else does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from noded.postgres import confinement

CHILD = """
import errno, os, sys
def chmod(mode, **where):
    try:
        os.chmod(sys.argv[1], mode, **where)
    except OSError as error:
        return errno.errorcode[error.errno]
    return oct(os.stat(sys.argv[1]).st_mode & 0o7777)
here = os.open(".", os.O_RDONLY)
sys.argv[1] = os.path.relpath(sys.argv[1])
print(chmod(0o700), chmod(0o750), chmod(0o600), chmod(0o755), chmod(0o700, dir_fd=here), chmod(0o711, dir_fd=here))
"""


def test_only_the_modes_of_a_data_directory_are_refused(tmp_path: Path) -> None:
    command = [sys.executable, "-c", CHILD, str(tmp_path)]
    confined = confinement.run_confined(
        lambda confined: confined and subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    )
    assert confined == ["EPERM", "EPERM", "0o600", "0o755", "EPERM", "0o711"]
    free = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert free == ["0o700", "0o750", "0o600", "0o755", "0o700", "0o711"], "this process and its other children are free"


def test_what_the_start_raises_is_raised() -> None:
    def start(_confined: bool) -> None:
        raise FileNotFoundError("no such program")

    with pytest.raises(FileNotFoundError, match="no such program"):
        confinement.run_confined(start)


def test_a_machine_that_is_not_known_here_is_not_confined(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(confinement, "_CALLS", {})
    assert not confinement.is_possible()
