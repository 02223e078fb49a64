"""Thousands of odd lines of pg_hba.conf are read here as PostgreSQL reads them."""

from __future__ import annotations

import random

import pytest

from pgtopology.hba import INCLUDES, UNPROVEN, fields, is_unproven
from tests.noded.members import running_members

pytestmark = pytest.mark.integration

LINES = 4000
WORDS = {
    "type": ("local", "host", "hostnossl", "host", "local"),
    "names": ("all", "app", "sameuser", "a b", 'odd"one', "trust", "#x", "a,b", "@", "ident", "replication", "+group"),
    "address": ("all", "10.0.0.0/8", "samenet", "127.0.0.1", "trust", ".example.com", "::1/128", "::1"),
    "mask": ("255.255.255.255", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
    "method": ("trust", "reject", "md5", "scram-sha-256", "password", "ident", "trust"),
}


def spelled(chance: random.Random, word: str) -> str:
    """Return a spelling of *word*: quotes around it, around a part of it, or none where none is needed."""
    if any(mark in word for mark in ' "#,'):
        return '"' + word.replace('"', '""') + '"'
    match chance.randrange(4):
        case 0:
            return f'"{word}"'
        case 1:
            begin, end = sorted(chance.choices(range(len(word) + 1), k=2))
            return f'{word[:begin]}"{word[begin:end]}"{word[end:]}'
        case _:
            return word


def odd_line(chance: random.Random) -> str:
    """Return a line that PostgreSQL mostly understands."""

    def some(kind: str, most: int = 1) -> str:
        words = [spelled(chance, chance.choice(WORDS[kind])) for _ in range(chance.randint(1, most))]
        return "".join(word + chance.choice((",", ", ", ",,\t")) for word in words[:-1]) + words[-1]

    kind = chance.choice(WORDS["type"])
    parts = [spelled(chance, kind), some("names", 3), some("names", 3)]
    if kind != "local":
        parts.append(some("address"))
        if chance.random() < 0.3:
            parts.append(some("mask"))
    parts.append(some("method"))
    if chance.random() < 0.1:
        parts.insert(chance.randrange(len(parts)), chance.choice(('""', "x", '"', "#", ",")))
    line = chance.choice(("", " ", ", ")) + "".join(part + chance.choice((" ", "\t", "  ", " \r")) for part in parts)
    return line + chance.choice(("", "", "# trust", '#"', '"', ","))


async def test_lines_are_read_as_postgresql_reads_them() -> None:
    chance = random.Random(4)
    lines = [line for _ in range(LINES) if not (line := odd_line(chance)).rstrip("\r").endswith("\\")]
    async with running_members(1) as cluster:
        only = cluster["n1"]
        await cluster.found()
        path = only.directory / "conf" / "pg_hba.conf"
        kept = path.read_bytes()
        path.write_text("".join(f"{line}\n" for line in lines))
        question = "SELECT line_number, type, database, user_name, auth_method FROM pg_hba_file_rules WHERE error IS NULL"
        rules = await cluster.sql(only, question, timeout_s=60)
        path.write_bytes(kept)
    assert len(rules) > LINES / 4, "PostgreSQL understands too few of them"
    methods = set[str]()
    for rule in rules:
        line = lines[rule["line_number"] - 1]
        texts = [[token.text for token in field] for field in fields(line)]
        assert texts[:3] == [[rule["type"]], rule["database"], rule["user_name"]], line
        assert texts[0][0] not in INCLUDES
        # On a Unix socket PostgreSQL takes ident for peer.
        unproven = rule["auth_method"] in UNPROVEN or (rule["auth_method"] == "peer" and texts[3] == ["ident"])
        assert is_unproven(line) is unproven, line
        methods.add(rule["auth_method"])
    assert {"trust", "reject", "ident", "peer"} <= methods
