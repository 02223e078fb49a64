"""The data directory: what is refused before anything is written, what is private, and what a purge may remove."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from daemonkit.exits import Failure
from daemonkit.principals import Scope, read_verifiers
from daemonkit.secrets import read_secret
from deployment.local.directory import (
    DirectoryState,
    inspect_directory,
    leave_no_sockets,
    lock,
    make_directories,
    make_files,
    make_root,
    make_tokens,
    purge,
    read_plan,
)
from deployment.local.layout import Layout
from deployment.local.plan import make_plan


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path / "c")


@pytest.fixture
def made(layout: Layout) -> Layout:
    make_root(layout)
    make_files(layout, make_plan(node_count=3, base_port=6400, pg_bin="/bin"))
    return layout


def test_a_missing_and_an_empty_directory_are_new(layout: Layout) -> None:
    assert inspect_directory(layout) is DirectoryState.NEW
    layout.root.mkdir()
    assert inspect_directory(layout) is DirectoryState.NEW


def test_a_made_directory_is_complete_and_gives_its_plan_back(made: Layout) -> None:
    assert inspect_directory(made) is DirectoryState.COMPLETE
    assert read_plan(made) == make_plan(node_count=3, base_port=6400, pg_bin="/bin")


def test_everything_is_private_to_the_user(made: Layout) -> None:
    for path in [made.root, *made.root.rglob("*")]:
        wanted = 0o700 if path.is_dir() else 0o600
        assert stat.S_IMODE(path.stat().st_mode) == wanted, path


def test_passwords_differ_and_are_long(made: Layout) -> None:
    passwords = {made.secret(name).read_text().strip() for name in ("superuser", "control", "replication", "probe")}
    assert len(passwords) == 4
    assert all(len(password) >= 32 for password in passwords)


def test_a_directory_of_an_earlier_version_gets_the_tokens_it_lacks(made: Layout) -> None:
    admin = made.token.read_text()
    for path in (made.verifiers, *(made.token_of(scope) for scope in Scope if scope is not Scope.ADMIN)):
        path.unlink()
    assert inspect_directory(made) is DirectoryState.COMPLETE
    make_tokens(made)
    assert made.token.read_text() == admin
    tokens = {scope: read_secret(made.token_of(scope)) for scope in Scope}
    assert len(set(tokens.values())) == len(Scope)
    verifiers = read_verifiers(made.verifiers)
    assert all(scope in verifiers.scopes_of(token) for scope, token in tokens.items())
    assert not any(token in made.verifiers.read_text() for token in tokens.values())


def test_an_interrupted_start_goes_on_where_it_stopped(layout: Layout) -> None:
    make_root(layout)
    layout.secrets.mkdir()
    assert inspect_directory(layout) is DirectoryState.NEW


def test_secrets_are_never_drawn_twice(made: Layout) -> None:
    before = made.secret("superuser").read_text()
    make_files(made, make_plan(node_count=3, base_port=6400, pg_bin="/bin"))
    assert made.secret("superuser").read_text() == before


def test_a_foreign_directory_is_refused_and_not_touched(layout: Layout) -> None:
    layout.root.mkdir()
    (layout.root / "thesis.txt").write_text("years of work")
    with pytest.raises(Failure, match="not empty and not a cluster of ours"):
        inspect_directory(layout)
    with pytest.raises(Failure, match="does not carry our marker"):
        purge(layout)
    assert (layout.root / "thesis.txt").read_text() == "years of work"


def test_a_file_in_its_place_is_refused(layout: Layout) -> None:
    layout.root.write_text("")
    with pytest.raises(Failure, match="not a directory"):
        inspect_directory(layout)


def test_data_without_a_plan_is_half_made(layout: Layout) -> None:
    make_root(layout)
    layout.pgdata("n1").mkdir(parents=True)
    with pytest.raises(Failure, match=r"half made: nodes have data, but cluster\.json is missing"):
        inspect_directory(layout)


def test_data_without_the_managers_store_is_half_made(made: Layout) -> None:
    made.pgdata("n1").mkdir(parents=True)
    with pytest.raises(Failure, match=r"half made: nodes have data, but manager/store\.sqlite is missing"):
        inspect_directory(made)


def test_a_lost_secret_is_named(made: Layout) -> None:
    made.secret("probe").unlink()
    with pytest.raises(Failure, match="half made: secrets/probe is missing"):
        inspect_directory(made)


def test_a_damaged_plan_is_named(made: Layout) -> None:
    made.plan.write_text("{")
    with pytest.raises(Failure, match=r"cluster\.json cannot be read"):
        read_plan(made)


def test_too_long_a_path_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Failure, match="too long"):
        inspect_directory(Layout(tmp_path / ("x" * 250) / ("y" * 250) / ("z" * 250)))


def test_a_path_too_long_for_sockets_puts_them_elsewhere(tmp_path: Path) -> None:
    far = Layout(tmp_path / ("x" * 90) / "c")
    assert far.root not in far.sockets.parents
    assert len(os.fsencode(far.sockets / "n5" / ".s.PGSQL.65535.lock")) <= 107


def test_sockets_elsewhere_go_when_nobody_listens_there(tmp_path: Path) -> None:
    far = Layout(tmp_path / ("x" * 90) / "c")
    far.root.parent.mkdir()
    make_root(far)
    make_directories(far)
    (far.sockets / "n1").mkdir()
    (far.sockets / "supervisor").touch()
    leave_no_sockets(far)
    assert far.sockets.exists(), "somebody listens there"
    (far.sockets / "supervisor").unlink()
    leave_no_sockets(far)
    assert not far.sockets.exists()


@pytest.mark.skipif(os.getuid() == 0, reason="root may write everywhere")
def test_a_place_without_the_right_to_write_is_refused() -> None:
    with pytest.raises(Failure, match="no right to write"):
        inspect_directory(Layout(Path("/endpointd-test")))


def test_the_lock_is_held_by_one_at_a_time(made: Layout) -> None:
    held = lock(made)
    assert held is not None
    assert lock(made) is None
    os.close(held)
    again = lock(made)
    assert again is not None
    os.close(again)


def test_a_purge_removes_everything(made: Layout) -> None:
    (made.root / "link").symlink_to("/etc/hostname")
    purge(made)
    assert not made.root.exists()
    assert Path("/etc/hostname").exists()
