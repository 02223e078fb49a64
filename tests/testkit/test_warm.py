"""A command that is forked behaves as one that is started."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

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
