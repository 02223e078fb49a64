"""Which damage to the cluster's small files is undone, and which changes are taken for somebody's wish."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from daemonkit.principals import Scope
from deployment.files import NODES_TOKEN, ROLE_SECRETS
from deployment.local.directory import make_files, make_root, make_tokens, passfile_line, write_passfile, write_settings
from deployment.local.layout import Layout
from deployment.local.plan import make_plan
from deployment.local.preferences import Preferences
from deployment.local.settings_files import settings_files
from supervisor.keepsakes import DISAGREEMENT_ROUNDS, Keepsakes, cluster_keepsakes

PLAN = make_plan(node_count=3, base_port=6400, pg_bin="/nowhere")


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """A cluster's directory."""
    made = Layout(tmp_path / "c")
    make_root(made)
    make_files(made, PLAN)
    write_settings(settings_files(PLAN, made, Preferences()))
    return made


@pytest.fixture
def kept(layout: Layout) -> Keepsakes:
    """Its keepsakes, which have seen all of it well."""
    keepsakes = Keepsakes(lambda: cluster_keepsakes(layout, PLAN))
    assert keepsakes.restore() == []
    return keepsakes


def files(layout: Layout) -> list[Path]:
    return [path for one in cluster_keepsakes(layout, PLAN) for path in one.checks]


def gone(path: Path) -> None:
    path.unlink()


def without_its_directory(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    if not [one for one in path.parent.iterdir() if one.name != "elsewhere"]:
        (path.parent / "elsewhere").unlink()
        path.parent.rmdir()


def empty(path: Path) -> None:
    path.write_bytes(b"")


def garbage(path: Path) -> None:
    path.write_bytes(bytes(range(256)) * 2)


def a_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()
    (path / "in it").write_text("")


def a_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def a_dangling_link(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.with_name("nowhere"))


def huge(path: Path) -> None:
    os.truncate(path, 1 << 30)


DAMAGES = (gone, without_its_directory, empty, garbage, a_directory, a_fifo, a_dangling_link, huge)


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_nobody_can_have_meant_is_undone_at_once(layout: Layout, kept: Keepsakes, damage: Callable[[Path], None]) -> None:
    for path in files(layout):
        before = path.read_bytes()
        damage(path)
        assert kept.restore() == [path]
        assert (path.read_bytes(), path.stat().st_mode & 0o777) == (before, 0o600)
        assert kept.restore() == []


def test_a_secret_that_is_open_to_others_is_private_again(layout: Layout, kept: Keepsakes) -> None:
    for path in (*layout.secrets.iterdir(), *(layout.token_of(scope) for scope in Scope)):
        path.chmod(0o644)
        assert kept.restore() == [path]
        assert path.stat().st_mode & 0o777 == 0o600


def test_what_no_command_changes_while_the_cluster_runs_is_undone_at_once(layout: Layout, kept: Keepsakes) -> None:
    for path in (layout.marker, *(layout.secret(name) for name in (*ROLE_SECRETS, NODES_TOKEN) if name != "superuser")):
        before = path.read_bytes()
        path.write_text("another-word")
        assert kept.restore() == [path]
        assert path.read_bytes() == before


def test_a_wrong_token_is_undone_when_nobody_wrote_its_digest_meanwhile(layout: Layout, kept: Keepsakes) -> None:
    for path in (*(layout.token_of(scope) for scope in Scope), layout.verifiers):
        before = path.read_bytes()
        path.write_text("another-word" if path != layout.verifiers else f"admin {'0' * 64}\n")
        for _ in range(DISAGREEMENT_ROUNDS - 1):
            assert kept.restore(ends_round=True) == []
        # The start of a program is no round.
        assert kept.restore() == []
        assert kept.restore(ends_round=True) == [path]
        assert path.read_bytes() == before


def test_tokens_that_were_rotated_stay_and_are_what_is_put_back_from_then_on(layout: Layout, kept: Keepsakes) -> None:
    layout.token.write_text("another-word\n")
    kept.restore(ends_round=True)
    make_tokens(layout)
    for _ in range(2 * DISAGREEMENT_ROUNDS):
        assert kept.restore(ends_round=True) == []
    layout.token.unlink()
    assert kept.restore() == [layout.token]
    assert layout.token.read_text() == "another-word\n"


@pytest.mark.parametrize("password", ["pass:wo\\rd", " with spaces ", "Zürich"])
def test_a_password_that_was_set_stays(layout: Layout, kept: Keepsakes, password: str) -> None:
    layout.secret("superuser").write_text(f"{password}\n")
    kept.restore(ends_round=True)
    write_passfile(layout, PLAN)
    for _ in range(2 * DISAGREEMENT_ROUNDS):
        assert kept.restore(ends_round=True) == []
    layout.passfile.unlink()
    assert kept.restore() == [layout.passfile]
    assert passfile_line(password) in layout.passfile.read_text().splitlines()


def test_settings_that_were_written_by_hand_stay_and_garbage_is_kept_beside_them(layout: Layout, kept: Keepsakes) -> None:
    path = layout.settings_file("n1")
    path.write_text(path.read_text().replace('level = "info"', 'level = "debug"'))
    wanted = path.read_bytes()
    assert kept.restore() == []
    path.write_text("[node\nname = 1")
    assert kept.restore() == [path]
    assert path.read_bytes() == wanted
    assert path.with_name("n1.toml.refused").read_text() == "[node\nname = 1"


def test_a_file_that_nobody_has_seen_well_is_left_alone(layout: Layout) -> None:
    path = layout.secret("control")
    path.write_bytes(b"")
    kept = Keepsakes(lambda: cluster_keepsakes(layout, PLAN))
    assert kept.restore() == []
    path.write_text("a-word")
    assert kept.restore() == []
    path.write_bytes(b"")
    assert kept.restore() == [path]
    assert path.read_text() == "a-word"
