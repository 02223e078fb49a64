"""What containers are made of and started by: their program, their secrets, the image's packages."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from cluster_manager.settings import read_settings as read_manager
from daemonkit.principals import Scope, read_verifiers
from daemonkit.settings import load_settings
from endpointd.settings import read_settings as read_proxy
from noded.settings import NodedSettings

ROOT = Path(__file__).resolve().parents[2]


def _load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("endpointd_launch", ROOT / "docker" / "launch.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where annotations are looked up
    spec.loader.exec_module(module)
    return module


launch = _load()


PLACED = """
import sys
from pathlib import Path
root, run, role = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]
sys.path[:0] = [str(root), str(root / "docker")]
from deployment import containers
containers.CLUSTER_FILE = root / "config" / "compose.toml"
containers.RUN, containers.SECRETS, containers.SOCKETS = run, run / "secrets", run / "socket"
import launch
launch.HANDED_OVER = run / "handed"
sys.executable = "/bin/echo"
sys.argv = ["endpointd-launch", *role]
launch.main()
"""
"""The program with other places for its files, and a Python that says what it was to become."""


@pytest.mark.parametrize(
    ("role", "module", "read", "health"),
    [
        (["noded", "n2"], "noded.daemon", lambda path: load_settings(path, NodedSettings), "8008 /readiness"),
        (["manager"], "cluster_manager.daemon", read_manager, "6480 /health"),
        (["proxy"], "endpointd.daemon", read_proxy, "6490 /health"),
    ],
)
def test_a_container_becomes_its_daemon_with_settings_that_it_reads(
    tmp_path: Path, role: list[str], module: str, read: Callable[[Path], object], health: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PLACED, str(ROOT), str(tmp_path), *role],
        env={"ENDPOINTD_NET": "10.1.2"}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    file = tmp_path / "settings.toml"
    assert done.stdout == f"-m {module} --config {file}\n"
    assert read(file)
    assert (tmp_path / "health").read_text() == f"{health}\n"


def test_a_container_that_is_described_wrongly_says_so_in_one_line(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PLACED, str(ROOT), str(tmp_path), "noded", "n9"],
        env={"ENDPOINTD_NET": "10.1.2"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.startswith("endpointd-launch: ")
    assert 'there is no node "n9"' in done.stderr
    assert done.stderr.count("\n") == 1


def test_secrets_become_private(tmp_path: Path) -> None:
    source, target = tmp_path / "run", tmp_path / "own"
    source.mkdir()
    (source / "control").write_text("secret")
    (source / "control").chmod(0o644)
    launch.copy_secrets(source, target)
    launch.copy_secrets(source, target)
    assert (target / "control").read_text() == "secret"
    assert (target / "control").stat().st_mode & 0o777 == 0o600


def test_prepare_makes_secrets_once_and_for_the_user_alone(tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    script = str(ROOT / "docker" / "prepare")
    subprocess.run([script, str(folder)], check=True, stdout=subprocess.DEVNULL)
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    subprocess.run([script, str(folder)], check=True, stdout=subprocess.DEVNULL)
    assert before == {file.name: file.read_bytes() for file in folder.iterdir()}
    assert folder.stat().st_mode & 0o777 == 0o700
    tokens = ("api-token", "scrape-token", "feed-token", "read-token", "operate-token")
    assert len({before[name] for name in ("superuser", "control", "replication", "probe", "nodes-token", *tokens)}) == 10
    (folder / "verifiers").chmod(0o600)  # as launch.py copies it
    verifiers = read_verifiers(folder / "verifiers")
    for name in tokens:
        scope = Scope.ADMIN if name == "api-token" else Scope(name.removesuffix("-token"))
        assert scope in verifiers.scopes_of(before[name].decode())
    assert not (verifiers.scopes_of(before["feed-token"].decode()) & {Scope.READ, Scope.OPERATE, Scope.ADMIN})
    assert (folder / "pgpass").stat().st_mode & 0o777 == 0o600


def test_the_image_pins_what_the_project_needs() -> None:
    """A dependency added to the project must be added to the image's constraints too."""
    document = tomllib.loads((ROOT / "pyproject.toml").read_text())
    pinned = {line.partition("==")[0].lower() for line in (ROOT / "docker" / "constraints.txt").read_text().splitlines()}
    optional = document["project"]["optional-dependencies"]
    wanted = document["project"]["dependencies"] + optional["embedded"] + optional["sql"]
    known = {name.replace("-", "_") for name in pinned}
    missing = [text for text in wanted if text.partition(">")[0].strip().lower().replace("-", "_") not in known]
    assert missing == []


def test_every_package_goes_to_the_engine() -> None:
    document = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = [name.removesuffix("*") for name in document["tool"]["setuptools"]["packages"]["find"]["include"]]
    sent = (ROOT / ".dockerignore").read_text().splitlines()
    assert [name for name in packages if f"!{name}" not in sent] == []


def test_scripts_can_be_run() -> None:
    for name in ("prepare", "launch.py", "healthcheck", "fetch-wheels", "build-programs", "slim-root"):
        assert os.access(ROOT / "docker" / name, os.X_OK)
