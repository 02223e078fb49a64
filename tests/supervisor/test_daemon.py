"""The supervisor's program: what it refuses, and that it takes the lock that it was not handed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from daemonkit.toml import to_toml
from deployment.local.directory import lock, make_files, make_root
from deployment.local.layout import Layout
from deployment.local.plan import make_plan
from deployment.local.settings_files import SupervisorSettings


def run(layout: Layout, **environment: str) -> subprocess.CompletedProcess[str]:
    path = layout.root.with_name("supervisor.toml")
    path.write_text(to_toml(SupervisorSettings(data_dir=layout.root)))
    return subprocess.run(
        [sys.executable, "-m", "supervisor.daemon", "--config", str(path)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_directory_that_holds_no_cluster_is_refused_in_one_line(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "c")
    make_root(layout)
    done = run(layout)
    assert (done.returncode, done.stderr) == (1, f"endpointd-supervisor: {layout.root} holds no cluster\n")


def test_a_directory_that_somebody_has_locked_is_refused(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "c")
    make_root(layout)
    make_files(layout, make_plan(node_count=1, base_port=1, pg_bin="/nowhere"))
    descriptor = lock(layout)
    assert descriptor is not None
    try:
        # A number that is of no descriptor of the directory hands nothing over.
        for number in ("", "0", "99", "-1", "x"):
            done = run(layout, ENDPOINTD_LOCK_FD=number)
            assert done.returncode == 1
            assert done.stderr.startswith(f"endpointd-supervisor: {layout.root} is locked")
    finally:
        os.close(descriptor)


def test_settings_that_name_something_else_are_wrong_usage(tmp_path: Path) -> None:
    path = tmp_path / "supervisor.toml"
    path.write_text('data_dirr = "/nowhere"\n')
    done = subprocess.run(
        [sys.executable, "-m", "supervisor.daemon", "--config", str(path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert "data_dirr" in done.stderr
