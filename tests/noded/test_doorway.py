"""A socket whose path is taken away is found again, and nothing is made up where nobody listens."""

from __future__ import annotations

import shutil
import socket
from pathlib import Path

import pytest

from noded.postgres.doorway import Doorway


def reach(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(5)
        client.connect(str(path))


def test_a_path_that_was_taken_away_leads_to_the_socket_again(tmp_path: Path) -> None:
    path = tmp_path / "s" / ".s.PGSQL.1"
    path.parent.mkdir()
    doorway = Doorway(path)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        for _ in range(2):
            doorway.keep()
            shutil.rmtree(path.parent)
            with pytest.raises(FileNotFoundError):
                reach(path)
            doorway.keep()
            reach(path)
            assert path.parent.stat().st_mode & 0o777 == 0o700
        path.unlink()
        doorway.keep()
        reach(path)
    doorway.forget()
    doorway.keep()
    with pytest.raises(FileNotFoundError):
        reach(path)


def test_the_next_server_is_the_one_that_is_remembered(tmp_path: Path) -> None:
    path = tmp_path / ".s.PGSQL.1"
    doorway = Doorway(path)
    doorway.keep()
    assert not path.exists()
    with socket.socket(socket.AF_UNIX) as first:
        first.bind(str(path))
        first.listen()
        doorway.keep()
    path.unlink()
    with socket.socket(socket.AF_UNIX) as second:
        second.bind(str(path))
        second.listen()
        doorway.keep()
        path.unlink()
        doorway.keep()
        reach(path)
        second.settimeout(5)
        second.accept()[0].close()
