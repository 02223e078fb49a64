"""The pure parts of the comparison with Patroni: the texts of its settings, and what measurements come to."""

from __future__ import annotations

import io
import json
import sys
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
from rich.console import Console

from bench.patroni.faults import SPREAD_S, delays_s
from bench.patroni.install import MissingError, find_programs
from bench.patroni.report import Measurement, is_clean, summarize, table
from bench.patroni.texts import DEFAULT, FAST, Member, Variant, direct_dsn, haproxy_settings, is_healthy, patroni_settings

MEMBERS = [Member(name=f"n{n}", port=7000 + n, rest_port=8000 + n, home=Path(f"/x/n{n}")) for n in (1, 2, 3)]


def measured(system: str, *outages: float | None, fault: str = "kill", lost: int = 0) -> list[Measurement]:
    return [
        Measurement(
            repeat=repeat,
            system=system,
            fault=fault,
            outage_s=outage,
            acknowledged=100,
            in_doubt=1,
            lost=lost,
            fabricated=0,
        )
        for repeat, outage in enumerate(outages, start=1)
    ]


@pytest.mark.parametrize("variant", [DEFAULT, FAST])
def test_patroni_takes_the_times_as_they_are(variant: Variant) -> None:
    # Patroni changes times that break these rules, and would then be measured with others than the table says.
    assert variant.ttl >= 20
    assert variant.loop_wait >= 1
    assert variant.retry_timeout >= 3
    assert variant.loop_wait + 2 * variant.retry_timeout <= variant.ttl


@pytest.mark.parametrize(("major", "has_provider"), [(15, False), (16, False), (17, True), (18, True)])
def test_settings_of_a_member(major: int, has_provider: bool) -> None:
    text = patroni_settings(FAST, MEMBERS[1], pg_bin=Path("/pg/bin"), pg_major=major, etcd_port=2379, password='p"w')
    settings = json.loads(text)
    dcs = settings["bootstrap"]["dcs"]
    assert (settings["scope"], settings["name"]) == ("patroni-fast", "n2")
    assert settings["restapi"]["listen"] == "127.0.0.1:8002"
    assert settings["postgresql"]["listen"] == settings["postgresql"]["connect_address"] == "127.0.0.1:7002"
    assert settings["postgresql"]["authentication"]["superuser"]["password"] == 'p"w'
    assert (dcs["ttl"], dcs["loop_wait"], dcs["retry_timeout"], dcs["primary_start_timeout"]) == (20, 1, 3, 0)
    # A majority of three: the primary and one of two.
    assert (dcs["synchronous_mode"], dcs["synchronous_node_count"]) == ("quorum", 1)
    assert dcs["postgresql"]["parameters"]["wal_sender_timeout"] == "2s"
    assert ({"locale-provider": "builtin"} in settings["bootstrap"]["initdb"]) is has_provider
    assert not any("trust" in line for line in settings["postgresql"]["pg_hba"])


def test_defaults_leave_the_replication_timers_of_postgresql_alone() -> None:
    text = patroni_settings(DEFAULT, MEMBERS[0], pg_bin=Path("/pg/bin"), pg_major=18, etcd_port=1, password="p")
    parameters = json.loads(text)["bootstrap"]["dcs"]["postgresql"]["parameters"]
    assert set(parameters) == {"shared_buffers", "max_connections"}


def test_haproxy_asks_each_patroni_and_leads_to_its_server() -> None:
    lines = [line.strip() for line in haproxy_settings(DEFAULT, MEMBERS, port=5000).splitlines()]
    assert "bind 127.0.0.1:5000" in lines
    assert "option httpchk OPTIONS /primary" in lines
    assert "retries 2" in lines
    assert "retries 0" in haproxy_settings(FAST, MEMBERS, port=5000)
    assert "default-server inter 3s fall 3 rise 2 on-marked-down shutdown-sessions" in lines
    assert [line.split()[1:3] + line.split()[-1:] for line in lines if line.startswith("server ")] == [
        ["n1", "127.0.0.1:7001", "8001"],
        ["n2", "127.0.0.1:7002", "8002"],
        ["n3", "127.0.0.1:7003", "8003"],
    ]


def test_without_haproxy_clients_look_for_the_primary() -> None:
    dsn = direct_dsn("pw", MEMBERS)
    assert dsn == (
        "postgresql://postgres:pw@127.0.0.1:7001,127.0.0.1:7002,127.0.0.1:7003/postgres?target_session_attrs=read-write"
    )


def _members(*seen: tuple[str, str, int]) -> dict[str, object]:
    return {"members": [{"role": role, "state": state, "timeline": timeline} for role, state, timeline in seen]}


@pytest.mark.parametrize(
    ("answer", "healthy"),
    [
        (_members(("leader", "running", 2), *[("quorum_standby", "streaming", 2)] * 2), True),
        (_members(("leader", "running", 2), ("quorum_standby", "streaming", 2)), False),
        (_members(("leader", "running", 2), ("quorum_standby", "streaming", 2), ("replica", "streaming", 2)), False),
        (_members(("leader", "running", 2), ("quorum_standby", "streaming", 2), ("quorum_standby", "running", 2)), False),
        (_members(("leader", "running", 2), ("quorum_standby", "streaming", 2), ("quorum_standby", "streaming", 1)), False),
        (_members(*[("quorum_standby", "streaming", 2)] * 3), False),
        ({}, False),
    ],
)
def test_health(answer: dict[str, object], healthy: bool) -> None:
    assert is_healthy(answer, nodes=3) is healthy


def test_rows_are_medians_and_ratios_to_the_baseline_of_the_same_fault() -> None:
    measurements = [
        *measured("ours", 0.4, 0.2, 0.3),
        *measured("theirs", 3.0, 9.0, 6.0, lost=2),
        *measured("ours", 1.0, fault="freeze"),
        *measured("theirs", 25.0, fault="freeze"),
    ]
    kill_ours, kill_theirs, _, freeze_theirs = summarize(measurements, baseline="ours")
    assert (kill_ours.median_s, kill_ours.max_s, kill_ours.ratio) == (0.3, 0.4, 1.0)
    assert (kill_theirs.median_s, kill_theirs.max_s, kill_theirs.lost, kill_theirs.acknowledged) == (6.0, 9.0, 6, 300)
    assert kill_theirs.ratio == pytest.approx(20.0)
    assert (freeze_theirs.fault, freeze_theirs.ratio) == ("freeze", 25.0)


def test_a_run_that_never_came_back_is_counted_and_not_averaged() -> None:
    rows = summarize([*measured("ours", None), *measured("theirs", 2.0, None)], baseline="ours")
    assert [(row.median_s, row.failed, row.ratio) for row in rows] == [(None, 1, None), (2.0, 1, None)]


def test_clean_is_nothing_lost_and_all_came_back() -> None:
    good = measured("ours", 0.2, 0.3)
    assert is_clean(good)
    assert not is_clean([*good, *measured("ours", None)])
    assert not is_clean([*good, *measured("ours", 0.2, lost=1)])
    assert not is_clean([*good, replace(good[0], fabricated=1)])


def test_table_shows_every_row() -> None:
    out = io.StringIO()
    rows = summarize([*measured("ours", 0.25), *measured("theirs", 5.0, None)], baseline="ours")
    Console(file=out, width=140).print(table(rows, baseline="ours"))
    ours, theirs = (line for line in out.getvalue().splitlines() if "│ ours" in line or "│ theirs" in line)
    assert [cell.strip() for cell in ours.split("│")[1:-1]] == ["kill", "ours", "1", "0.25", "0.25", "1.0", "100", "0", "0"]
    cells = [cell.strip() for cell in theirs.split("│")[1:-1]]
    assert cells == ["", "theirs", "2 (1 failed)", "5.00", "5.00", "20.0", "200", "0", "0"]


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingError, match="there is no etcd"):
        find_programs(tmp_path / "venv")
    assert not (tmp_path / "venv").exists()
    etcd = tmp_path / "etcd"
    etcd.write_text("#!/bin/sh\n")
    etcd.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "no-python"))
    with pytest.raises(MissingError, match="could not be installed into"):
        find_programs(tmp_path / "venv")


def test_strikes_are_spread_over_a_round_of_patroni() -> None:
    assert DEFAULT.loop_wait == SPREAD_S
    delays = delays_s(4, Random(7))
    assert [int(delay // (SPREAD_S / 4)) for delay in delays] == [0, 1, 2, 3]
    assert delays != delays_s(4, Random(8))
