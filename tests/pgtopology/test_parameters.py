"""What an operator may give PostgreSQL, and how one change follows another."""

from __future__ import annotations

import pytest

from pgtopology.codec import decode, encode
from pgtopology.configuration import ConfigChange, changed
from pgtopology.desired import DesiredSettings
from pgtopology.parameters import (
    AT_LEAST_THE_WRITERS,
    HBA_LINES_MAX,
    OURS,
    PARAMETERS_MAX,
    SettingRefused,
    check,
    check_hba,
    check_kept,
    check_parameters,
    without_refused,
)


def test_users_settings_are_accepted_whatever_their_case() -> None:
    check_parameters({"Shared_Buffers": "64MB", "work_mem": "8MB", "wal_level": "logical", "pg_stat_statements.max": "9"})
    check(DesiredSettings(parameters={"work_mem": "1MB"}, hba=("host app app 10.0.0.0/8 scram-sha-256", "# words", "")))


@pytest.mark.parametrize("name", [*OURS, "FSYNC", "Synchronous_Standby_Names"])
def test_settings_that_are_ours_are_refused_with_the_reason(name: str) -> None:
    with pytest.raises(SettingRefused, match="cannot be set") as caught:
        check_parameters({name: "x"})
    assert OURS[name.lower()] in str(caught.value)


@pytest.mark.parametrize(
    "parameters",
    [
        {"wal_level": "minimal"},
        {"a b": "1"},
        {"": "1"},
        {"a.b.c": "1"},
        {"work_mem": "1\nfsync=off"},
        {"work_mem": "1\0"},
        {"work_mem": "1" * 5000},
        {"work_mem": "1MB", "WORK_MEM": "2MB"},
        {"endpointd.desired_version": "1"},
        {"Endpointd.more": "1"},
        {f"a.b{number}": "1" for number in range(PARAMETERS_MAX + 1)},
        *({name: value} for name in AT_LEAST_THE_WRITERS for value in ("0x10", "ten", "-1", "1e3", "")),
    ],
)
def test_settings_that_make_no_sense_are_refused(parameters: dict[str, str]) -> None:
    with pytest.raises(SettingRefused) as caught:
        check_parameters(parameters)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "accepted", "refused"),
    [
        (
            "max_slot_wal_keep_size",
            ("4GB", "4096", "4096MB", "10 GB", "1TB"),
            ("-1", "0", "4095", "1GB", "4194304kB", "4gb", "", "4.5GB"),
        ),
        ("wal_keep_size", ("256MB", "256", "64GB"), ("0", "255MB", "9999TB")),
        ("max_replication_slots", ("20", "50"), ("19", "0", "20GB", "twenty")),
        ("sync_replication_slots", ("on", "true"), ("off", "0", "")),
        ("wal_sender_timeout", ("0", "1min"), ()),
        ("max_standby_streaming_delay", ("-1", "0", "30s"), ()),
        ("idle_replication_slot_timeout", (), ("0", "1", "1d")),
        ("temp_file_limit", ("-1", "1GB", "1048576", "2TB"), ("64kB", "0", "-2", "1023MB", "1024", "1gb")),
        ("dynamic_library_path", ("$libdir", "/opt/lib:$libdir", "$libdir:/opt/lib"), ("", "/nowhere", "$libdirs", "/$libdir")),
        ("db_user_namespace", (), ("on", "off")),
    ],
)
def test_what_slots_and_their_wal_rest_on_can_be_more_and_not_less(
    name: str, accepted: tuple[str, ...], refused: tuple[str, ...]
) -> None:
    for value in accepted:
        check_parameters({name: value})
    for value in refused:
        with pytest.raises(SettingRefused, match=name):
            check_parameters({name: value})


@pytest.mark.parametrize(
    "name",
    [
        "autovacuum_analyze_score_weight",
        "autovacuum_freeze_score_weight",
        "autovacuum_max_parallel_workers",
        "autovacuum_multixact_freeze_score_weight",
        "autovacuum_vacuum_insert_score_weight",
        "autovacuum_vacuum_score_weight",
        "debug_print_raw_parse",
        "enable_eager_aggregate",
        "io_max_workers",
        "io_min_workers",
        "io_worker_idle_timeout",
        "io_worker_launch_interval",
        "log_autoanalyze_min_duration",
        "max_repack_replication_slots",
        "min_eager_agg_group_size",
        "password_expiration_warning_threshold",
        "timing_clock_source",
    ],
)
def test_what_postgresql_19_adds_is_the_operators_unless_a_promise_rests_on_it(name: str) -> None:
    check_parameters({name: "1"})


def test_levels_of_log_messages_by_the_type_of_process_are_passed_on() -> None:
    check_parameters({"log_min_messages": "warning, checkpointer:debug2, walreceiver:debug1"})


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("hosts_file", "noded decides where PostgreSQL listens and where its files are"),
        ("ssl_sni", "the file that it reads would stand on one node only"),
        ("wal_sender_shutdown_timeout", "a writer that is handed over waits until its successor has everything"),
    ],
)
def test_what_postgresql_19_adds_and_a_promise_rests_on_is_refused(name: str, why: str) -> None:
    with pytest.raises(SettingRefused, match=f'"{name}" cannot be set: {why}'):
        check_parameters({name: "1"})


@pytest.mark.parametrize(
    "line",
    [
        "host all all 0.0.0.0/0 trust",
        'local all all "trust"',
        "include /etc/passwd",
        "include_dir /x",
        "host all all all md5\nlocal all all trust",
        "host all all all \\",
        "host all all all \\\r",
        "# to be continued \\",
        'host all all all tr"us"t',
        'host all all 127.0.0.1 255.255.255.255 "tru"st',
        'host all all 10.0.0.0/8 "ident" map=x',
        'host "a b",c all all trust # why not',
        'host all all all, "trust" trust',
        "host all @friends all scram-sha-256",
        "host all all all @method",
        "@everything",
        "host @a @b all all all trust",
        'include_dir "/x"',
        '"include" x',
        "include_if_exists\t/x",
    ],
)
def test_lines_that_let_anybody_in_are_refused(line: str) -> None:
    with pytest.raises(SettingRefused):
        check_hba([line])
    with pytest.raises(SettingRefused):
        check(DesiredSettings(hba=(line,)))


@pytest.mark.parametrize(
    "line",
    [
        "host all all trust.example.com scram-sha-256",
        "host trust ident all scram-sha-256",
        'host all "@odd" all reject',
        "host all all all scram-sha-256 # trust",
        'host all all all reject"" #trust',
        "host all @ all reject",
        "local all all peer map=trust",
        "includes all all all reject",
        "host all all all reject \\ ",
    ],
)
def test_lines_that_only_look_so_are_accepted(line: str) -> None:
    check_hba([line])


def test_a_file_of_names_that_stands_already_goes_on_keeping_people_out() -> None:
    kept = DesiredSettings(
        version=3,
        parameters={"log_filename": "x", "application_name": "n2_aaaaaa"},
        hba=("host all @out all reject", "host @a all all trust"),
    )
    assert without_refused(kept) == DesiredSettings(version=3, hba=("host all @out all reject",))
    check_kept(
        DesiredSettings(parameters={"Log_Filename": "x", "application_name": "n2_aaaaaa"}, hba=("host all @out all reject",))
    )
    with pytest.raises(SettingRefused, match="proves who"):
        check_kept(kept)
    with pytest.raises(SettingRefused, match="fsync"):
        check_kept(DesiredSettings(parameters={"fsync": "off"}))


def test_what_an_earlier_version_accepted_is_left_out() -> None:
    kept = DesiredSettings(version=3, parameters={"fsync": "off", "jit": "off"}, hba=("host all all all trust", "# words"))
    assert without_refused(kept) == DesiredSettings(version=3, parameters={"jit": "off"}, hba=("# words",))


def test_lines_without_end_are_refused() -> None:
    with pytest.raises(SettingRefused, match="too many"):
        check_hba(["#"] * (HBA_LINES_MAX + 1))


BEFORE = DesiredSettings(version=3, parameters={"jit": "off", "work_mem": "1MB"}, hba=("host a a all md5",))


def test_a_change_makes_the_next_version() -> None:
    after = changed(BEFORE, ConfigChange(parameters={"Work_Mem": "2MB"}, reset=("JIT", "never_given"), relaxed_commits=True))
    assert after == DesiredSettings(version=4, parameters={"work_mem": "2MB"}, hba=BEFORE.hba, relaxed_commits=True)


def test_the_whole_replaces_what_it_does_not_name() -> None:
    after = changed(BEFORE, ConfigChange(parameters={"jit": "on"}, hba=(), whole=True))
    assert after == DesiredSettings(version=4, parameters={"jit": "on"})


@pytest.mark.parametrize(
    "change",
    [
        ConfigChange(),
        ConfigChange(parameters={"jit": "off"}),
        ConfigChange(reset=("never_given",)),
        ConfigChange(parameters=BEFORE.parameters, hba=BEFORE.hba, relaxed_commits=False, whole=True),
    ],
)
def test_without_a_difference_the_version_stays(change: ConfigChange) -> None:
    assert changed(BEFORE, change) is BEFORE


def test_a_document_of_an_older_version_has_no_settings() -> None:
    assert decode(b"{}", DesiredSettings) == DesiredSettings()
    assert decode(encode(BEFORE), DesiredSettings) == BEFORE


@pytest.mark.parametrize(
    ("value", "passes"), [("0", True), ("1", False), ("999ms", False), ("0.5s", False), ("1s", True), ("1min", True)]
)
def test_a_timeout_leaves_a_login_enough_time(value: str, passes: bool) -> None:
    if passes:
        check_parameters({"transaction_timeout": value})
    else:
        with pytest.raises(SettingRefused, match="1000 ms and more"):
            check_parameters({"Transaction_Timeout": value})
