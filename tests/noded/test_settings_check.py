"""What PostgreSQL says against its configuration, as one line for an operator. The words are PostgreSQL's own, of 15 and 18."""

from __future__ import annotations

from pathlib import Path

import pytest

from noded.postgres.huge_pages import Pool, held_kb, lacking, read_pool
from noded.postgres.slots import Slot
from noded.report.settings_check import accepted, complaint, slots_in_the_way
from pgtopology.desired import DesiredSettings

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
        (
            'LOG:  unrecognized configuration parameter "io_workers" in file "/d/postgresql.conf" line 1\n',
            (
                'there is no parameter "io_workers" in this PostgreSQL: from PostgreSQL 19 on give "io_min_workers" and '
                '"io_max_workers"'
            ),
        ),
        ('LOG:  parameter "effective_wal_level" cannot be changed\n', 'parameter "effective_wal_level" cannot be changed'),
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


POOL = Pool(page_kb=2048, free=100, reserved=40, surplus=5, overcommit=15)
MAPS = """7f0000000000-7f0002800000 rw-s 00000000 00:0f 1041 /anon_hugepage (deleted)
7f0003000000-7f0004000000 rw-s 00000000 00:01 1042 /dev/zero (deleted)
"""


@pytest.mark.parametrize(
    ("needed", "pool", "held", "told"),
    [
        (70, POOL, 0, None),
        (71, POOL, 0, "71 huge pages of 2048 kB are needed, and the machine has 70"),
        (90, POOL, 20 * 2048, None),
        (1, None, 0, "no huge pages of this size"),
        (-1, POOL, 0, "no huge pages of this size"),
    ],
)
def test_huge_pages_are_those_that_are_free_may_be_added_or_come_back(
    needed: int, pool: Pool | None, held: int, told: str | None
) -> None:
    said = lacking(needed, pool, held)
    assert (said is None) if told is None else (said is not None and told in said)


def test_huge_memory_of_a_process_is_told_from_other_shared_memory() -> None:
    assert held_kb(MAPS) == 40 << 10


def test_a_pool_is_what_the_kernel_says_and_a_size_that_it_has_not_is_none(tmp_path: Path) -> None:
    place = tmp_path / "hugepages-2048kB"
    place.mkdir()
    for name, count in (("free", 100), ("resv", 40), ("surplus", 5)):
        (place / f"{name}_hugepages").write_text(f"{count}\n")
    (place / "nr_overcommit_hugepages").write_text("15\n")
    assert read_pool(2048, tmp_path) == POOL
    assert read_pool(16384, tmp_path) is None


LOGICAL = DesiredSettings(parameters={"wal_level": "logical", "max_replication_slots": "30"})
SLOTS = (Slot(name="n2_bbbbbb", slot_type="physical"), Slot(name="feed", slot_type="logical"))
IN_THE_WAY = '"wal_level" cannot be "replica" while there is the logical replication slot "feed"; '


@pytest.mark.parametrize(
    ("major", "told"),
    [
        (18, f"{IN_THE_WAY}drop it first (a standby's copy goes within a minute)"),
        (
            19,
            (
                f"{IN_THE_WAY}the other nodes keep copies of it with wal_level logical only; drop it first "
                "(a standby's copy goes within a minute)"
            ),
        ),
    ],
)
def test_a_logical_slot_keeps_wal_level_logical_and_the_reason_is_the_versions(major: int, told: str) -> None:
    """PostgreSQL 19 would start, and decode; what would be lost is the slot at the next handover."""
    assert slots_in_the_way(SLOTS, LOGICAL, DesiredSettings(), major=major) == told
    assert slots_in_the_way(SLOTS[:1], LOGICAL, DesiredSettings(), major=major) is None
    assert slots_in_the_way(SLOTS, DesiredSettings(), LOGICAL, major=major) is None
