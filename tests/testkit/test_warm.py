"""A command that is forked behaves as one that is started."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from testkit.smalldisk import private_mounts
from testkit.warm import ROOT, WarmProgram

TIMEOUT_S = 60.0


def new() -> WarmProgram:
    return WarmProgram("endpointctl.main", ["status", "--version"])


@pytest.mark.parametrize("words", [["--version"], ["status", "--help"], ["status"], ["status", "--json"], ["no", "such"]])
def test_exit_code_and_output_are_those_of_the_command_started_from_nothing(words: list[str], tmp_path: Path) -> None:
    env = dict(os.environ) | {"ENDPOINTD_DATA_DIR": str(tmp_path)}
    cold = subprocess.run(
        [sys.executable, "-m", "endpointctl", *words], cwd=ROOT, env=env, capture_output=True, text=True, check=False
    )
    warm = new().run(words, env=env, timeout_s=TIMEOUT_S)
    assert (warm.returncode, warm.stdout, warm.stderr) == (cold.returncode, cold.stdout, cold.stderr)


def test_each_command_has_an_environment_of_its_own(tmp_path: Path) -> None:
    endpointctl = new()
    for name in ("one", "two"):
        env = dict(os.environ) | {"ENDPOINTD_DATA_DIR": str(tmp_path / name)}
        assert str(tmp_path / name) in endpointctl.run(["status"], env=env, timeout_s=TIMEOUT_S).stderr


def test_a_command_sees_the_file_systems_that_its_caller_sees(tmp_path: Path) -> None:
    """As on a small disk of one test's, after other tests have used the program."""
    endpointctl = new()
    env = dict(os.environ) | {"ENDPOINTD_DATA_DIR": str(tmp_path / "none")}
    assert endpointctl.run(["status"], env=env, timeout_s=TIMEOUT_S).returncode != 0
    with private_mounts():
        hidden = tmp_path / "hidden"
        hidden.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(hidden)], check=True)
        (hidden / "cluster.json").write_text("not a plan")
        inside = endpointctl.run(["status"], env=env | {"ENDPOINTD_DATA_DIR": str(hidden)}, timeout_s=TIMEOUT_S)
    assert "cluster.json" in inside.stderr
    after = endpointctl.run(["status"], env=env | {"ENDPOINTD_DATA_DIR": str(hidden)}, timeout_s=TIMEOUT_S)
    assert "cluster.json" not in after.stderr


def test_a_command_that_takes_too_long_is_killed(tmp_path: Path) -> None:
    endpointctl = new()
    (tmp_path / "token").touch(mode=0o600)
    (tmp_path / "token").write_text("t")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        env = dict(os.environ) | {
            "ENDPOINTD_API": f"http://127.0.0.1:{silent.getsockname()[1]}",
            "ENDPOINTD_TOKEN_FILE": str(tmp_path / "token"),
        }
        endpointctl.run(["--version"], env=env, timeout_s=TIMEOUT_S)
        with pytest.raises(subprocess.TimeoutExpired):
            endpointctl.run(["status", "--timeout", "600"], env=env, timeout_s=2.0)
        assert endpointctl.run(["--version"], env=env, timeout_s=TIMEOUT_S).returncode == 0


async def test_a_daemon_is_signalled_and_waited_for_as_a_child(tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb") as log:
        refused = WarmProgram("noded.daemon", ["--version"]).start(
            ["--config", str(tmp_path / "none.toml")], env=os.environ, out=log.fileno(), err=log.fileno()
        )
    assert await refused.wait() == 2
    assert refused.returncode == 2
    assert (tmp_path / "log").read_text().startswith("endpointd-noded: ")
    with pytest.raises(ProcessLookupError):
        refused.kill()
