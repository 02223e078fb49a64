"""Where PostgreSQL's own tests come from, and what is told of them."""

from __future__ import annotations

import hashlib
import shutil
import tarfile
from pathlib import Path

import pytest

from tests.compat.fetching import UnavailableError
from tests.compat.programs.upstream_tests import outcome, scheduled
from tests.compat.upstream import Upstream, as_sources, fetch

HAS_APT = shutil.which("apt-get") is not None and shutil.which("apt-config") is not None


def test_both_forms_of_apts_configuration_name_sources_instead() -> None:
    lines = "# deb is commented\ndeb [signed-by=/key arch=amd64] http://mirror/debian stable main\ndebug\n"
    assert as_sources(lines) == lines.replace("\ndeb [", "\ndeb-src [")
    stanza = "Types: deb deb-src\nURIs: http://mirror/debian\nSuites: stable\n\nTypes: deb\nURIs: http://other\n"
    assert as_sources(stanza) == stanza.replace("deb deb-src", "deb").replace("Types: deb", "Types: deb-src")


@pytest.mark.skipif(not HAS_APT, reason="there is no apt")
def test_a_release_that_is_listed_but_not_there_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archives = {version: _archive(tmp_path, version) for version in ("15.9", "15.10", "15.11")}
    _configure(tmp_path, archives, monkeypatch)
    archives["15.11"].unlink()
    fetch(tmp_path / "place")
    assert [each.name for each in (tmp_path / "place").iterdir()] == ["postgresql-15.10"]
    assert (Upstream(tmp_path / "place/postgresql-15.10").release, Upstream(tmp_path / "postgresql-15.10").major) == (
        "15.10",
        15,
    )


@pytest.mark.skipif(not HAS_APT, reason="there is no apt")
def test_what_is_not_what_was_listed_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archives = {"15.9": _archive(tmp_path, "15.9")}
    _configure(tmp_path, archives, monkeypatch)
    archives["15.9"].write_bytes(archives["15.9"].read_bytes()[::-1])
    with pytest.raises(UnavailableError, match="no source of PostgreSQL can be had"):
        fetch(tmp_path / "place")
    assert not (tmp_path / "place").exists()


@pytest.mark.skipif(not HAS_APT, reason="there is no apt")
@pytest.mark.parametrize(("configured", "why"), [("", "names no source"), ("deb [trusted=yes] file:/nowhere ./\n", "/nowhere")])
def test_who_cannot_be_served_is_told_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, configured: str, why: str) -> None:
    _configure(tmp_path, {}, monkeypatch)
    (tmp_path / "sources.list.d" / "here.list").write_text(configured)
    with pytest.raises(UnavailableError, match=why):
        fetch(tmp_path / "place")


def _archive(folder: Path, version: str) -> Path:
    inside = folder / f"postgresql-{version}"
    inside.mkdir()
    (inside / "README").write_text(version)
    target = folder / f"postgresql-15_{version}.orig.tar.gz"
    with tarfile.open(target, "w:gz") as tar:
        tar.add(inside, inside.name)
    return target


def _configure(folder: Path, archives: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Have apt's configuration name *folder* alone, as a place of source packages."""
    stanzas: list[str] = []
    for version, archive in archives.items():
        description = folder / f"postgresql-15_{version}-1.dsc"
        description.write_text(f"Source: postgresql-15\nVersion: {version}-1\n")
        sums = "".join(
            f"\n {hashlib.sha256(each.read_bytes()).hexdigest()} {each.stat().st_size} {each.name}"
            for each in (archive, description)
        )
        head = f"Package: postgresql-15\nBinary: postgresql-15\nVersion: {version}-1\nArchitecture: any\nDirectory: .\n"
        stanzas.append(f"{head}Format: 3.0 (quilt)\nChecksums-Sha256:{sums}\n")
    (folder / "Sources").write_text("\n".join(stanzas))
    parts = folder / "sources.list.d"
    parts.mkdir()
    (parts / "here.list").write_text(f"deb [trusted=yes] file:{folder} ./\n")
    settings = folder / "apt.conf"
    settings.write_text(f'Dir::Etc::sourcelist "/dev/null"; Dir::Etc::sourceparts "{parts}";\n')
    monkeypatch.setenv("APT_CONFIG", str(settings))


def test_a_schedule_is_read_in_its_order() -> None:
    text = "# a comment\ntest: one\n\n# test: none\ntest: two three\nignore: two\ntest: four\n"
    assert scheduled(text) == ["one", "two", "three", "four"]


def test_any_of_the_expected_outputs_will_do_and_others_differ_by_what_they_say_but_not_by_where() -> None:
    here, there = Path("/tmp/here"), Path("/tmp/there")
    assert outcome(b"2\n", [b"1\n", b"2\n"], (here,)) == "as expected"
    assert outcome(b"no /tmp/here/x", [], (here,)) == outcome(b"no /tmp/there/x", [], (there,))
    assert outcome(b"3\n", [b"1\n"], (here,)) != outcome(b"4\n", [b"1\n"], (here,))
