"""The lines by which a proxy's certificate logs in: for whom they are, and for whom never."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from noded.postgres.conf import ident
from noded.postgres.vouching import (
    Present,
    Vouching,
    VouchingError,
    hba_lines,
    ident_lines,
    present,
    read_logins,
    read_sources,
)
from pgtopology.hba import fields

REJECTS = ("host all all 10.0.0.9/32 reject", "host replication all 10.0.0.9/32 reject")
THERE = Present(("ann", "bob", "svc_a", "a b"), ("shop", "stock", "postgres"))


def vouching(*logins: str) -> Vouching:
    return Vouching(read_sources(["10.0.0.9"]), read_logins(logins))


@pytest.mark.parametrize(
    ("login", "line"),
    [
        ("shop ann", 'hostssl "shop" "ann" 10.0.0.9/32 cert map=endpointd_proxy'),
        ("all ann,bob,nobody", 'hostssl all "ann","bob" 10.0.0.9/32 cert map=endpointd_proxy'),
        ("sameuser,shop all", 'hostssl sameuser,"shop" "ann","bob","svc_a","a b" 10.0.0.9/32 cert map=endpointd_proxy'),
        ("/^s /^svc_", 'hostssl "shop","stock" "svc_a" 10.0.0.9/32 cert map=endpointd_proxy'),
        ('shop "a b"', 'hostssl "shop" "a b" 10.0.0.9/32 cert map=endpointd_proxy'),
        ("elsewhere ann", None),
        ("shop nobody", None),
        ('"all" ann', None),
        ('shop "all"', None),
    ],
)
def test_names_are_written_out(login: str, line: str | None) -> None:
    assert hba_lines(vouching(login), THERE) == ((line, *REJECTS) if line is not None else REJECTS)


def test_the_map_names_those_roles_and_no_other() -> None:
    lines = ident_lines(vouching("shop ann", "all /^svc_"), THERE)
    assert lines == ('endpointd_proxy "endpointd_proxy" "ann"', 'endpointd_proxy "endpointd_proxy" "svc_a"')
    text = ident("mine a b\nendpointd_proxy /.* all\n", None, lines).decode()
    assert text.splitlines() == ["mine a b", *lines]
    assert ident(text, None).decode() == "mine a b\n"


def test_nobody_is_in_before_the_first_look() -> None:
    assert hba_lines(vouching("all all"), Present()) == REJECTS
    assert ident_lines(vouching("all all"), Present()) == ()


@given(st.lists(st.binary(min_size=1, max_size=20) | st.text(min_size=1, max_size=20).map(str.encode), max_size=5))
def test_whatever_roles_are_called_the_lines_say_no_more_than_their_names(names: list[bytes]) -> None:
    there = present(names, names)
    assert not any(name.startswith(("endpointd", "pg_")) for name in there.roles)
    lines = hba_lines(vouching("all all"), there)
    if there.roles:
        kind, databases, users, *rest = fields(lines[0])
        assert [token.text for token in users] == list(there.roles)
        assert all(token.quoted and not token.names_file for token in users)
        assert (kind[0].text, databases[0].text, [field[0].text for field in rest]) == (
            "hostssl",
            "all",
            ["10.0.0.9/32", "cert", "map=endpointd_proxy"],
        )
    assert lines[-2:] == REJECTS
    for line, name in zip(ident_lines(vouching("all all"), there), there.roles, strict=True):
        assert [[token.text for token in field] for field in fields(line)] == [["endpointd_proxy"], ["endpointd_proxy"], [name]]
        assert all(not name.startswith(prefix) for prefix in ("/", "+", "@"))


@pytest.mark.parametrize("line", ["shop", "shop ann 10.0.0.0/8", "@file ann", ""])
def test_a_login_is_databases_and_users(line: str) -> None:
    with pytest.raises(VouchingError, match="expected are databases and users"):
        read_logins([line])


def test_a_source_is_an_address_or_a_network() -> None:
    assert read_sources(["10.0.0.9", "10.1.0.0/24", "fd00::9"]) == ("10.0.0.9/32", "10.1.0.0/24", "fd00::9/128")
    with pytest.raises(VouchingError, match="sources"):
        read_sources(["all"])
