"""The process table: what is asked of the living, of zombies and of those that are gone."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from daemonkit import proctable

PARENT = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
print(child.pid, flush=True)
input()
child.communicate()
"""


@pytest.fixture
def parent(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process with a name that takes some reading, and a child."""
    odd = tmp_path / "a ) b 1 (c"
    odd.symlink_to(sys.executable)
    with subprocess.Popen(
        [str(odd), "-c", PARENT, "wört"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=tmp_path
    ) as process:
        yield process
        process.communicate("")


def test_a_process_is_described_whatever_it_is_called(parent: subprocess.Popen[str], tmp_path: Path) -> None:
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    stat = proctable.stat_of(parent.pid)
    assert stat is not None
    assert (stat.parent, stat.session) == (os.getpid(), os.getsid(0))
    assert not stat.has_ended
    assert parent.pid in proctable.pids()
    assert parent.pid in proctable.children(os.getpid())
    assert proctable.children(parent.pid) == proctable.descendants(parent.pid) == [child]
    assert child in proctable.descendants(os.getpid())
    assert proctable.arguments(parent.pid) == tuple(str(word) for word in parent.args)  # type: ignore[union-attr]
    assert (proctable.title(parent.pid) or "").endswith("wört")
    assert proctable.working_directory(parent.pid) == str(tmp_path)
    assert proctable.owner(parent.pid) == os.getuid()


def test_a_zombie_has_ended_and_one_that_is_gone_is_nobody() -> None:
    with subprocess.Popen(["true"]) as process:
        deadline = time.monotonic() + 10
        while (stat := proctable.stat_of(process.pid)) is None or not stat.has_ended:
            assert time.monotonic() < deadline
        assert not proctable.is_alive(process.pid)
        assert proctable.title(process.pid) == ""
        assert proctable.working_directory(process.pid) is None
    assert proctable.stat_of(process.pid) is None
    assert proctable.title(process.pid) is None
    assert proctable.arguments(process.pid) == ()
    assert proctable.owner(process.pid) is None
    assert proctable.children(process.pid) == []


def test_this_boot_has_a_name() -> None:
    assert proctable.boot_id() == proctable.boot_id() != ""
