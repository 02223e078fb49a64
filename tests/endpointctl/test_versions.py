"""A version of PostgreSQL that nobody has tested here is refused everywhere with the same sentence."""

from __future__ import annotations

from pathlib import Path

import pytest

from daemonkit.exits import ExitCode
from deployment.local.directory import make_files, make_root
from deployment.local.layout import Layout
from deployment.local.plan import make_plan
from endpointctl.main import main
from noded.daemon import main as noded
from noded.postgres.binaries import NEEDED
from pgtopology.parameters import GONE, OURS
from tests.noded.test_daemon import write_settings

OLD = "nobody mends PostgreSQL before 15 any more"
NEW = "a newer one is refused until a build of it has passed our tests"


@pytest.mark.parametrize(
    ("version", "told", "reason"),
    [("14.23", "14.23", OLD), ("9.6.24", "9.6.24", OLD), ("19.1", "19.1", NEW), ("19beta4 (Debian)", "19beta4", NEW)],
)
def test_up_doctor_and_noded_refuse_a_version_alike(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], version: str, told: str, reason: str
) -> None:
    """The programs can say their version, and no more."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in NEEDED:
        (programs / name).write_text(f"#!/bin/sh\necho '{name} (PostgreSQL) {version}'\n")
        (programs / name).chmod(0o755)
    said = (
        f"no usable PostgreSQL 15 to 18: {programs}: version {told} is not supported; 15 to 18 are, and {reason} "
        "(docs/versions.md)"
    )

    layout = Layout(tmp_path / "c")
    assert main(["up", "--detach", "--pg-bin", str(programs), "--data-dir", str(layout.root)]) == ExitCode.FAILED
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not layout.root.exists()

    make_root(layout)
    make_files(layout, make_plan(node_count=3, base_port=7400, pg_bin=str(programs)))
    assert main(["doctor", "--data-dir", str(layout.root)]) == ExitCode.FAILED
    assert said in capsys.readouterr().out

    node = f'[node]\ncluster = "c"\nname = "n1"\npg_bin = "{programs}"'
    assert noded(["--config", str(write_settings(tmp_path, node=node))]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_the_page_on_versions_quotes_the_sentences_that_are_said() -> None:
    page = (Path(__file__).parents[2] / "docs" / "versions.md").read_text()
    for name in ("wal_sender_shutdown_timeout", "hosts_file", "ssl_sni"):
        assert f'"{name}" cannot be set: {OURS[name]}`' in page
    for name, why in GONE.items():
        assert f'there is no parameter "{name}" in this PostgreSQL: {why}`' in page
    assert f"version 19.1 is not supported; 15 to 18 are, and {NEW} (docs/versions.md)" in page
