"""The skeleton of all daemons: what ends one before it begins, what it says, and how it reads its settings again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path

import pytest

import cluster_manager.daemon
import endpointd.daemon
import noded.daemon
from daemonkit.version import VERSION

ROOT = Path(__file__).parents[2]
DAEMONS = {
    "endpointd-manager": cluster_manager.daemon.main,
    "endpointd-noded": noded.daemon.main,
    "endpointd": endpointd.daemon.main,
}
PROGRAM = """
import os, sys
from pathlib import Path
import msgspec
from prometheus_client import REGISTRY, Counter
from daemonkit.logs import LogSettings, get_logger
from daemonkit.program import Daemon, NotNow
from daemonkit.settings import SettingsError, load_settings

class Settings(msgspec.Struct, forbid_unknown_fields=True):
    word: str
    logs: LogSettings = LogSettings()

def prepare(settings):
    if settings.word == "later":
        raise NotNow("the disk is full")
    return settings.word

async def serve(running, word):
    def take_up(new):
        if new.word == "bad":
            raise SettingsError("the word is bad")
        return {"word": new.word}
    running.on_reload(take_up)
    if word == "taken":
        raise OSError("the port is taken")
    if word == "bug":
        raise ZeroDivisionError("a bug")
    get_logger().info("serves", umask=f"{os.umask(0o077):o}")
    await running.life.stopping.wait()
    counts = {s.labels["outcome"]: s.value for f in reloads.collect() for s in f.samples if s.name.endswith("_total")}
    get_logger().info("counted", **counts)

reloads = Counter("test_reloads", "", ["outcome"])
daemon = Daemon(name="prog", description="", log_name=lambda _: "prog", read=lambda path: load_settings(path, Settings),
                prepare=prepare, serve=serve, mendable=(OSError,), reloads=reloads)
sys.exit(daemon.main())
"""


@pytest.fixture(autouse=True)
def _umask() -> Generator[None, None, None]:
    """Give the test process back the mask that a daemon sets for itself."""
    before = os.umask(0o022)
    yield
    os.umask(before)


def start(folder: Path, text: str) -> subprocess.Popen[str]:
    (folder / "settings.toml").write_text(text)
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, "--config", str(folder / "settings.toml")],
        stderr=subprocess.PIPE, text=True, cwd=ROOT, env={"PYTHONPATH": str(ROOT), "PATH": ""},
    )  # fmt: skip


def read_until(process: subprocess.Popen[str], word: str) -> str:
    assert process.stderr is not None
    while word not in (line := process.stderr.readline()):
        assert line, f"it ended without saying {word}"
    return line


@pytest.mark.parametrize("name", DAEMONS)
def test_every_daemon_tells_its_version_in_the_same_words(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        DAEMONS[name](["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"{name} {VERSION}\n"


@pytest.mark.parametrize("name", DAEMONS)
def test_every_daemon_refuses_settings_in_one_line_and_the_same_way(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "none.toml"
    assert DAEMONS[name](["--config", str(file)]) == 2
    assert capsys.readouterr().err == f"{name}: {file}: the settings cannot be read: No such file or directory\n"
    with pytest.raises(SystemExit) as ended:
        DAEMONS[name]([])
    assert ended.value.code == 2


@pytest.mark.parametrize(
    ("word", "status", "said"),
    [
        ("1", 2, "prog: {file}: word: expected a string, got 1"),
        ('"later"', 1, "prog: the disk is full"),
    ],
)
def test_what_keeps_it_from_beginning_is_one_line(tmp_path: Path, word: str, status: int, said: str) -> None:
    process = start(tmp_path, f"word = {word}\n")
    assert process.communicate(timeout=30)[1] == said.format(file=tmp_path / "settings.toml") + "\n"
    assert process.returncode == status


def test_what_an_operator_can_mend_is_a_line_in_the_log_and_a_bug_is_a_traceback(tmp_path: Path) -> None:
    process = start(tmp_path, 'word = "taken"\n')
    words = process.communicate(timeout=30)[1]
    assert process.returncode == 1
    assert "cannot serve" in words
    assert "the port is taken" in words
    assert "Traceback" not in words
    process = start(tmp_path, 'word = "bug"\n')
    assert "Traceback" in process.communicate(timeout=30)[1]
    assert process.returncode == 1


def test_settings_are_read_again_and_bad_ones_change_nothing(tmp_path: Path) -> None:
    process = start(tmp_path, 'word = "first"\n[logs]\nstyle = "json"\n')
    try:
        assert '"umask":"77"' in read_until(process, "serves")
        for text, said in (
            ('word = "second"\n[logs]\nstyle = "json"\n', '"word":"second"'),
            ('word = "bad"\n[logs]\nstyle = "console"\n', '"reason":"the word is bad"'),
            ("word = 1\n", "expected a string"),
        ):
            (tmp_path / "settings.toml").write_text(text)
            process.send_signal(signal.SIGHUP)
            assert read_until(process, said).startswith("{"), "the style of the logs stays"
        process.terminate()
        line = read_until(process, "counted")
        assert '"done":1' in line
        assert '"failed":2' in line
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.communicate()
