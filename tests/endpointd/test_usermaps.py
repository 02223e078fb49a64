"""User maps: which roles a certificate's name stands for, and that it stands for no other."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from endpointd.usermaps import UserMapError, may_be, read_user_maps

MAPS = read_user_maps(
    [
        "# people",
        r"people /^(.*)@shop\.example$ \1",
        'people  "Ann Smith"  ann',
        "people  auditor      /^audit_",
        "people  root@shop    all",
        'people  quoted       "all"',
        r"staff   /^([a-z]+)\.([a-z]+)$  \1_x",
    ]
)


@pytest.mark.parametrize(
    ("used", "name", "role", "may"),
    [
        (None, "ann", "ann", True),
        (None, "ann", "Ann", False),
        ("people", "bob@shop.example", "bob", True),
        ("people", "bob@shop.example", "ann", False),
        ("people", "bob@shop.example.evil", "bob", False),
        ("people", "all@shop.example", "all", True),
        ("people", "all@shop.example", "ann", False),
        ("people", "/^.@shop.example", "ann", False),
        ("people", "+staff@shop.example", "ann", False),
        ("people", "Ann Smith", "ann", True),
        ("people", "ann", "ann", False),
        ("people", "auditor", "audit_7", True),
        ("people", "auditor", "ann", False),
        ("people", "root@shop", "anybody", True),
        ("people", "quoted", "all", True),
        ("people", "quoted", "ann", False),
        ("staff", "ann.smith", "ann_x", True),
        ("staff", "ann.smith", "smith_x", False),
        ("nobody", "ann", "ann", False),
    ],
)
def test_whom_a_name_stands_for(used: str | None, name: str, role: str, may: bool) -> None:
    assert may_be(MAPS, used, name, role) is may


@given(st.text(), st.text())
@example("all", "postgres")
@example("/.*", "postgres")
@example("a", "\\1")
def test_what_a_group_finds_is_one_name_whatever_it_looks_like(name: str, role: str) -> None:
    maps = read_user_maps([r'm "/" \1', r"m /^(.*)@x$ \1"])
    found = re.search("^(.*)@x$", f"{name}@x")
    assert may_be(maps, "m", f"{name}@x", role) is (found is not None and found[1] == role)


@given(st.text(), st.text(), st.text(min_size=1))
def test_without_a_map_a_name_is_itself(name: str, role: str, used: str) -> None:
    assert may_be(MAPS, None, name, role) is (name == role)
    if used not in MAPS:
        assert not may_be(MAPS, used, name, role)


@given(st.text(alphabet='ab/\\1 "(),*+@^$', max_size=20), st.text(max_size=8), st.text(max_size=8))
def test_no_line_raises_anything_else(line: str, name: str, role: str) -> None:
    try:
        maps = read_user_maps([f"m {line}"])
    except UserMapError:
        return
    may_be(maps, "m", name, role)


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("people ann", "expected are"),
        ("people ann ann ann", "expected are"),
        ("people ann,bob ann", "expected are"),
        ("people ann +staff", "members of a role"),
        ("people /( ann", "is no regular expression"),
        ("people ann /(", "is no regular expression"),
        (r"people /^.*@x$ \1", "has no group"),
        ("people @names ann", "reads no files"),
        ("include maps.conf", "reads no files"),
        ("people ann ann\npeople bob bob", "one line"),
    ],
)
def test_what_cannot_be_held_to_is_refused_with_its_number(line: str, why: str) -> None:
    with pytest.raises(UserMapError, match="line 2,") as caught:
        read_user_maps(["people ann ann", line])
    assert why in str(caught.value)
