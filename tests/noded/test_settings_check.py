"""What PostgreSQL says against its configuration, as one line for an operator. The words are PostgreSQL's own, of 15 and 18."""

from __future__ import annotations

import pytest

from noded.report.settings_check import accepted, complaint

WORK_MEM = {"vartype": "integer", "min_val": "64", "max_val": "2147483647", "unit": "kB", "enumvals": None}
TRACK = {"vartype": "enum", "min_val": None, "max_val": None, "unit": None, "enumvals": ["none", "pl", "all"]}
KNOWN = {
    "work_mem": WORK_MEM,
    "track_functions": TRACK,
    "jit": {**TRACK, "vartype": "bool"},
    "timezone": {**TRACK, "vartype": "string"},
}
HEAD = 'LOG:  skipping missing configuration file "/d/postgresql.auto.conf"\n'
TAIL = 'FATAL:  configuration file "/d/postgresql.conf" contains errors\n'


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (
            'LOG:  invalid value for parameter "work_mem": "banana"\nHINT:  Valid units for this parameter are "B".\n',
            '"work_mem" cannot be "7": accepted is 64 to 2147483647, in units of kB or with a unit of its own',
        ),
        (
            'LOG:  1 kB is outside the valid range for parameter "work_mem" (64 kB .. 2147483647 kB)\n',
            '"work_mem" cannot be "7": accepted is 64 to 2147483647, in units of kB or with a unit of its own',
        ),
        (
            'LOG:  invalid value for parameter "track_functions": "x"\nHINT:  Available values: none, pl, all.\n',
            '"track_functions" cannot be "7": accepted are none, pl, all',
        ),
        (
            'LOG:  invalid value for parameter "work_mem": 102400\nDETAIL:  "work_mem" must not exceed 7680kB.\n',
            '"work_mem" cannot be "7": "work_mem" must not exceed 7680kB.',
        ),
        ('LOG:  parameter "jit" requires a Boolean value\n', '"jit" cannot be "7": accepted are on and off'),
        (
            'LOG:  invalid value for parameter "TimeZone": "Mars"\n',
            '"TimeZone" cannot be "7": PostgreSQL does not accept this text for it',
        ),
        ('LOG:  invalid value for parameter "new_one": "x"\n', '"new_one" cannot be "7"'),
        (
            'LOG:  unrecognized configuration parameter "no_such" in file "/d/postgresql.conf" line 1\n',
            'there is no parameter "no_such" in this PostgreSQL',
        ),
        ('LOG:  parameter "block_size" cannot be changed\n', 'parameter "block_size" cannot be changed'),
        (
            "postgres: superuser_reserved_connections (8) must be less than max_connections (5)\n",
            "superuser_reserved_connections (8) must be less than max_connections (5)",
        ),
        ("", "PostgreSQL would not start with these settings"),
    ],
)
def test_what_postgresql_says_becomes_one_line(said: str, told: str) -> None:
    parameters = {str(name): "7" for name in (*KNOWN, "new_one")}
    assert complaint(HEAD + said + TAIL, parameters, KNOWN) == told


def test_a_range_without_a_unit_names_none() -> None:
    assert accepted({**WORK_MEM, "unit": None}) == "accepted is 64 to 2147483647"
