"""The rules of an endpoint: which one decides, and which are refused, with the reason."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from endpointd.rules import DEFAULT_LINES, Method, Rule, RuleError, Visit, decide, read_rules, vouched_logins


def visit(
    *, address: str = "10.1.2.3", tls: bool = False, database: str = "shop", user: str = "ann", replication: bool = False
) -> Visit:
    return Visit(address, tls, database, user, replication)


def method(rules: tuple[Rule, ...], who: Visit) -> Method | None:
    rule = decide(rules, who)
    return rule.method if rule is not None else None


@pytest.mark.parametrize(
    ("line", "who", "fits"),
    [
        ("host all all all reject", visit(), True),
        ("hostssl all all all reject", visit(), False),
        ("hostssl all all all reject", visit(tls=True), True),
        ("hostnossl all all all reject", visit(tls=True), False),
        ("host shop,stock ann,bob 10.0.0.0/8 reject", visit(), True),
        ("host stock ann all reject", visit(), False),
        ("host shop bob all reject", visit(), False),
        ("host all all 10.1.2.0/24 reject", visit(), True),
        ("host all all 10.1.2.3/24 reject", visit(address="10.1.2.200"), True),
        ("host all all 10.1.3.0 255.255.255.0 reject", visit(), False),
        ("host all all 10.1.2.0 255.255.255.0 reject", visit(), True),
        ("host all all ::1/128 reject", visit(address="::1"), True),
        ("host all all fd00:: ffff:: reject", visit(address="fd00::7"), True),
        ("host all all fe80::/10 reject", visit(address="fe80::1%eth0"), True),
        ("host all all 10.0.0.0/8 reject", visit(address="::ffff:10.0.0.1"), True),
        ("host all all ::/0 reject", visit(), False),
        ("host all all all reject", visit(replication=True), False),
        ("host replication all all reject", visit(replication=True), True),
        ("host replication all all reject", visit(database="replication"), False),
        ('host "replication" all all reject', visit(database="replication"), True),
        ('host "all" all all reject', visit(), False),
        ("host sameuser all all reject", visit(database="ann"), True),
        ("host sameuser all all reject", visit(), False),
        ("host all /^a.n$ all reject", visit(), True),
        ("host all /^ann$ all reject", visit(user="ann\n"), False),
        ("host all /^ann(?=$)|x$ all reject", visit(user="ann\n"), False),
        ("host all /^a[n$]+\\\\$$ all reject", visit(user="ann$\\"), True),
        ("host all /^ann\\$$ all reject", visit(user="ann$"), True),
        ("host all /^b all reject", visit(), False),
        ('host all "ann" all reject # for her', visit(), True),
    ],
)
def test_whom_a_rule_is_for(line: str, who: Visit, fits: bool) -> None:
    assert method(read_rules([line]), who) is (Method.REJECT if fits else None)


def test_the_first_rule_that_fits_decides() -> None:
    rules = read_rules(
        ["# a comment", "", "host all ann all relay", "host all all all scram-sha-256", "host all all all reject"]
    )
    assert method(rules, visit()) is Method.RELAY
    assert method(rules, visit(user="bob")) is Method.SCRAM


def test_by_default_everybody_proves_who_they_are() -> None:
    rules = read_rules(DEFAULT_LINES)
    assert method(rules, visit()) is method(rules, visit(replication=True)) is Method.SCRAM


def test_whom_the_proxy_vouches_for_are_the_databases_and_users_of_the_rules() -> None:
    lines = [
        'hostssl shop,"the stock" /^a,bob all cert map=people',
        "hostssl all all all scram-sha-256",
        "host sameuser all 127.0.0.1/32 trust",
        'hostssl shop,"the stock" /^a,bob 10.0.0.0/8 cert',
    ]
    rules = read_rules(lines)
    assert [rule.user_map for rule in rules] == ["people", None, None, None]
    assert vouched_logins(rules) == ('shop,"the stock" /^a,bob', "sameuser all")


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("local all scram-sha-256", "expected are local, databases, users and method"),
        ("local all all all scram-sha-256", '"all" is no method'),
        ("hostgssenc all all all reject", "is no type of connection"),
        ("host all all all", "expected are type"),
        ("host all all all cert", "must be hostssl"),
        ("hostnossl all all all cert", "must be hostssl"),
        ("hostssl all all all cert clientcert=verify-ca", "the only option"),
        ("hostssl all all all cert map=", "the only option"),
        ("hostssl all all all cert map=a map=b", "the only option"),
        ("host all all all trust map=x", "without options"),
        ("host replication all all trust", "nobody replicates"),
        ("hostssl shop,replication all all cert", "nobody replicates"),
        ("host all all all ldap", '"relay" leaves the proof to the server'),
        ("host all all all scram", "is no method"),
        ("host all all all relay map=x", "without options"),
        ("host all all 10.0.0.0/33 reject", "is no address"),
        ("host all all db.example reject", "is no address"),
        ("host all all 10.0.0.0 reject", "a mask is expected"),
        ("host all all fd00:: ff00:ff:: reject", "a mask is expected"),
        ("host all +staff all reject", "members of a role"),
        ("host samerole all all reject", "who is a member of what"),
        ("host all /( all reject", "is no regular expression"),
        ("host @names all all reject", "reads no files"),
        ("include rules.conf", "one by one"),
        ("host all all all reject\nhost all all all relay", "must be one line"),
    ],
)
def test_what_cannot_be_held_to_is_refused_with_its_number(line: str, why: str) -> None:
    with pytest.raises(RuleError, match="rule 2,") as caught:
        read_rules(["host all all all reject", line])
    assert why in str(caught.value)


@given(st.text(max_size=60))
def test_no_line_raises_anything_else(line: str) -> None:
    try:
        rules = read_rules([line])
    except RuleError:
        return
    decide(rules, visit())
