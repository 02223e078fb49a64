"""What a run of tests leaves behind ends with it, however the run ends."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from daemonkit.proctable import is_alive
from testkit.leftovers import ROOT, left_in

TIMEOUT_S = 60.0
RUN = """
import subprocess, sys, time
from pathlib import Path
from testkit.leftovers import ended_with_us

folder = Path(sys.argv[1])
def start(*command, cwd=None):
    return subprocess.Popen(command, cwd=cwd, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


with ended_with_us(folder):
    works_there = start("sleep", "600", cwd=folder / "n1")
    names_it = start(sys.executable, "-c", "import time; time.sleep(600)", f"{folder}/settings")
    beside = start("sleep", "600", cwd=f"{folder}2")
    print(works_there.pid, names_it.pid, beside.pid, flush=True)
    if sys.argv[2] == "lives":
        works_there.kill(), names_it.kill()
        works_there.wait(), names_it.wait()
    else:
        time.sleep(600)
"""


@pytest.mark.parametrize("end", ["lives", "is killed"])
def test_what_was_left_is_killed_and_nothing_else(end: str, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    (folder / "n1").mkdir(parents=True)
    Path(f"{folder}2").mkdir()
    run = subprocess.Popen(
        [sys.executable, "-c", RUN, str(folder), end], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert run.stdout is not None
    works_there, names_it, beside = (int(word) for word in run.stdout.readline().split())
    try:
        if end == "is killed":
            assert {works_there, names_it} <= set(left_in(folder))
            run.kill()
        _, said = run.communicate(timeout=TIMEOUT_S)  # the watch has the other end of it: this waits for both
        deadline = time.monotonic() + TIMEOUT_S
        while left_in(folder):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert (f"killed: {works_there} sleep 600" in said) is (end == "is killed")
        assert is_alive(beside)
    finally:
        subprocess.run(["kill", "-9", str(beside)], check=True)
