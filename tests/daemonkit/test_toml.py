"""What is written as TOML is read back to an equal value, whatever characters it has."""

from __future__ import annotations

import tomllib
from enum import StrEnum
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemonkit.settings import load_settings
from daemonkit.toml import to_toml


class Mode(StrEnum):
    FAST = "fast"
    SAFE = "safe"


class Inner(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    weight: float = 1.0


class Outer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    inner: Inner
    others: tuple[Inner, ...] = ()
    only: Inner | None = None


class File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    outer: Outer
    count: int = 0
    on: bool = False
    mode: Mode = Mode.FAST
    path: Path | None = None
    words: tuple[str, ...] = ()
    pairs: dict[str, str] = {}
    empty: tuple[Inner, ...] = ()


class Unset(msgspec.Struct, frozen=True):
    nothing: str | None = None


class Whole(msgspec.Struct, frozen=True):
    unset: Unset


class Odd(msgspec.Struct, frozen=True):
    value: object


TEXT = st.text(st.characters(codec="utf-8"), max_size=20)
INNER = st.builds(Inner, name=TEXT, weight=st.floats(allow_nan=False))
FILE = st.builds(
    File,
    outer=st.builds(Outer, inner=INNER, others=st.lists(INNER, max_size=3).map(tuple), only=st.none() | INNER),
    count=st.integers(-(2**63), 2**63 - 1),
    on=st.booleans(),
    mode=st.sampled_from(Mode),
    path=st.none() | TEXT.filter(lambda text: text != "" and not text.startswith("~")).map(Path),
    words=st.lists(TEXT, max_size=3).map(tuple),
    pairs=st.dictionaries(TEXT, TEXT, max_size=3),
    empty=st.lists(INNER, max_size=1).map(tuple),
)


@given(file=FILE)
def test_what_is_written_is_read_back_as_it_was(tmp_path_factory: pytest.TempPathFactory, file: File) -> None:
    path = tmp_path_factory.getbasetemp() / "round.toml"
    path.write_text(to_toml(file), encoding="utf-8")
    assert load_settings(path, File) == file


def test_the_text_is_what_an_operator_would_write() -> None:
    file = File(
        Outer(Inner("a"), (Inner("b"), Inner("c", 0.5))), path=Path("/x"), pairs={"b.c": "1", "a": 'q"'}, words=("x", "y")
    )
    assert (
        to_toml(file)
        == """\
count = 0
on = false
mode = "fast"
path = "/x"
words = ["x", "y"]
pairs = { a = "q\\"", "b.c" = "1" }

[outer.inner]
name = "a"
weight = 1.0

[[outer.others]]
name = "b"
weight = 1.0

[[outer.others]]
name = "c"
weight = 0.5
"""
    )


def test_a_table_without_keys_stands_there_all_the_same() -> None:
    assert tomllib.loads(to_toml(Whole(Unset()))) == {"unset": {}}


def test_what_no_file_holds_is_refused() -> None:
    with pytest.raises(TypeError, match="bytes"):
        to_toml(Odd(b"x"))


def test_an_operator_can_add_a_table_where_there_was_none(tmp_path: Path) -> None:
    path = tmp_path / "file.toml"
    path.write_text(to_toml(File(Outer(Inner("a")))) + '[[empty]]\nname = "b"\n')
    assert load_settings(path, File).empty == (Inner("b"),)
