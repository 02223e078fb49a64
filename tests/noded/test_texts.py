"""Texts that noded writes for PostgreSQL, or reads from its programs."""

from __future__ import annotations

import dataclasses
import re
import subprocess
from pathlib import Path

import pytest

from noded.data.bootstrap import role_statements
from noded.files import history, segments
from noded.files.controldata import parse_controldata
from noded.hands.conflicts import END_BLOCKERS
from noded.law.promise import Configuration
from noded.position.by_files import last_listed, last_whole
from noded.postgres import conf
from noded.postgres.tls import ServerTls
from noded.postgres.waits import REPLAY_IS_HELD_UP
from pgtopology.desired import DesiredSettings
from pgtopology.lsn import parse_lsn
from pgtopology.node import Address, NodeName
from pgtopology.orders import Upstream
from pgtopology.parameters import OURS, check_hba
from pgtopology.timeline import Timeline

PLACE = conf.Place(
    major=18,
    host="127.0.0.1",
    port=6410,
    socket_dir=Path("/tmp/s"),
    hba_file=Path("/d/conf/pg_hba.conf"),
    ident_file=Path("/d/pgdata/pg_ident.conf"),
    sync_name="n1_aaaa",
)
UPSTREAM = Upstream(NodeName("n2"), Address("127.0.0.1", 6411))


def options(place: conf.Place = PLACE) -> dict[str, str]:
    words = conf.command_line(place)
    assert words[::2] == ["-c"] * (len(words) // 2)
    return dict(word.split("=", 1) for word in words[1::2])


def test_what_carries_the_promises_of_the_cluster_is_on_the_command_line() -> None:
    given = options()
    expected = {
        "restart_after_crash": "off",
        "fsync": "on",
        "full_page_writes": "on",
        "synchronous_commit": "on",
        "password_encryption": "scram-sha-256",
        "wal_log_hints": "on",
        "hot_standby": "on",
        "primary_slot_name": "n1_aaaa",
        "cluster_name": "n1_aaaa",
        "allow_alter_system": "off",
        "restore_command": "",
    }
    assert expected.items() <= given.items()
    assert "primary_conninfo" not in given
    assert "synchronous_standby_names" not in given


def test_older_versions_get_no_setting_they_do_not_know() -> None:
    place = conf.Place(
        major=16,
        host="h",
        port=1,
        socket_dir=Path("/s"),
        hba_file=Path("/h"),
        ident_file=Path("/i"),
        sync_name="n1_aaaa",
    )
    assert "allow_alter_system" not in options(place)


def settings(demands: dict[str, int] | None = None, **parameters: str) -> dict[str, str]:
    text = conf.settings_file(DesiredSettings(version=7, parameters=parameters), demands or {}).decode()
    return dict(line.split(" = ", 1) for line in text.splitlines() if not line.startswith("#"))


def test_users_settings_are_a_file_of_their_own() -> None:
    given = settings(shared_buffers="64MB", search_path="it's")
    assert given["shared_buffers"] == "'64MB'"
    assert given["search_path"] == "'it''s'"
    assert given["max_connections"] == "'100'"
    assert given["endpointd.desired_version"] == "'7'"


def test_postgresql_speaks_tls_by_our_certificate_unless_the_operator_gives_another() -> None:
    tls = ServerTls(Path("/tls/n1.pem"), Path("/tls/n1.pem"), Path("/tls/ca.crt"))

    def given(**parameters: str) -> dict[str, str]:
        text = conf.settings_file(DesiredSettings(version=7, parameters=parameters), {}, tls).decode()
        return dict(line.split(" = ", 1) for line in text.splitlines() if not line.startswith("#"))

    ours = given()
    assert (ours["ssl"], ours["ssl_cert_file"], ours["ssl_ca_file"]) == ("'on'", "'/tls/n1.pem'", "'/tls/ca.crt'")
    assert ours["ssl_min_protocol_version"] == "'TLSv1.2'"
    assert given(ssl_min_protocol_version="TLSv1.3")["ssl_min_protocol_version"] == "'TLSv1.3'"
    assert given(ssl_ca_file="/mine")["ssl_ca_file"] == "'/mine'"
    assert given(ssl_ca_file="/mine")["ssl_cert_file"] == "'/tls/n1.pem'"
    assert "ssl_cert_file" not in given(SSL="off")
    assert "ssl_key_file" not in given(ssl="on", ssl_cert_file="/mine")
    assert "ssl" not in settings()


@pytest.mark.parametrize(("host", "mode"), [("127.0.0.1", "disable"), ("::1", "disable"), ("10.0.0.7", None), ("n1", None)])
def test_wal_needs_no_encryption_within_a_machine(host: str, mode: str | None) -> None:
    told = conf.upstream_conninfo(Upstream(name=NodeName("n1"), address=Address(host, 5432)), passfile=Path("/p"))
    assert ("sslmode=disable" in told) is (mode is not None)


def test_no_setting_is_less_than_the_wal_demands() -> None:
    demands = {"max_connections": 200, "max_worker_processes": 9, "max_prepared_transactions": 0}
    assert settings(demands)["max_connections"] == "'200'"
    assert settings(demands)["max_worker_processes"] == "'9'"
    assert settings(demands, max_connections="50")["max_connections"] == "'200'"
    assert settings(demands, max_connections="300")["max_connections"] == "'300'"


def test_every_fixed_setting_is_refused_from_users() -> None:
    assert set(options()) <= set(OURS)


def test_the_main_file_ends_in_our_include_and_no_other() -> None:
    text = "# a comment\nport = 1\ntimezone = 'UTC'\ninclude_if_exists = '/another/nodes/settings.conf'\n"
    made = conf.main_file(text, place=PLACE, included=Path("/d/it's/settings.conf"))
    assert made == "timezone = 'UTC'\ninclude_if_exists = '/d/it''s/settings.conf'\n"
    assert conf.main_file(made, place=PLACE, included=Path("/d/it's/settings.conf")) == made


def test_the_automatic_configuration_holds_the_two_changing_settings_only() -> None:
    text = conf.auto_conf(Configuration(None, "ANY 1 (x)"), major=16, passfile=Path("/p")).decode()
    assert text.splitlines()[1:] == ["primary_conninfo = ''", "synchronous_standby_names = 'ANY 1 (x)'"]


def test_logical_slots_are_kept_in_step_where_postgresql_can() -> None:
    assert options()["sync_replication_slots"] == "off"  # it would refuse to start with wal_level replica
    assert options(dataclasses.replace(PLACE, is_logical=True))["sync_replication_slots"] == "on"
    assert "sync_replication_slots" not in options(dataclasses.replace(PLACE, major=16, is_logical=True))
    configuration = Configuration(None, "ANY 1 (x)", ("n2_aaaa", "n3_bbbb"))
    text = conf.auto_conf(configuration, major=18, passfile=Path("/p")).decode()
    assert "synchronized_standby_slots = 'n2_aaaa, n3_bbbb'" in text


def test_the_password_is_never_in_the_configuration() -> None:
    text = conf.auto_conf(Configuration(UPSTREAM, ""), major=18, passfile=Path("/d/a b'c")).decode()
    assert "password" not in text
    assert "host=127.0.0.1 port=6411 user=endpointd_replication" in text
    assert "application_name" not in text  # a base copy takes this file along
    # Quoted twice: for libpq, and for the configuration file.
    assert "passfile=''/d/a b\\\\''c''" in text


def test_values_are_quoted() -> None:
    assert conf.quote_setting("a'b\\c") == "'a''b\\\\c'"
    assert conf.quote_literal("it's") == "'it''s'"
    assert conf.quote_literal("a\\b").strip() == "E'a\\\\b'"
    assert conf.passfile_line("a:b\\c", Address("::1", 6410)) == b"\\:\\:1:6410:*:endpointd_replication:a\\:b\\\\c\n"


def test_settings_of_the_command_line_leave_the_file() -> None:
    text = "# a comment\n\nshared_buffers = 128MB # too\nPort=5432\n\ttimezone = 'UTC'\n"
    assert conf.without_settings(text, {"shared_buffers", "port"}) == "\ttimezone = 'UTC'\n"


def test_users_lines_stand_between_ours_and_the_closing_ones() -> None:
    lines = conf.hba(["host app app 10.0.0.0/8 scram-sha-256"], by_peer=True).decode().splitlines()
    user = lines.index("host app app 10.0.0.0/8 scram-sha-256")
    assert lines.index(f"host  all         {conf.CONTROL_ROLE} all reject") < user
    assert lines[user + 1 : user + 3] == [
        "host  all         all 0.0.0.0/0 scram-sha-256",
        "host  all         all ::/0      scram-sha-256",
    ]
    assert {line.split()[-1] for line in lines[user + 1 :] if not line.startswith("#")} == {"scram-sha-256"}
    assert "trust" not in "\n".join(lines)


def test_everybody_with_the_right_may_replicate_but_no_role_of_ours_that_need_not() -> None:
    lines = [line.split() for line in conf.hba([], by_peer=True).decode().splitlines() if not line.startswith("#")]
    replication = {words[2]: words[-1] for words in reversed(lines) if words[:2] == ["host", "replication"]}
    assert replication == {
        conf.CONTROL_ROLE: "reject",
        conf.PROBE_ROLE: "reject",
        conf.REPLICATION_ROLE: "scram-sha-256",
        "all": "scram-sha-256",
    }


def test_only_our_own_standbys_are_given_up_after_two_seconds() -> None:
    text = conf.auto_conf(Configuration(UPSTREAM, ""), major=18, passfile=Path("/p")).decode()
    assert "options=''-c wal_sender_timeout=2s -c" in text
    assert not {"wal_sender_timeout", "max_standby_streaming_delay", "max_standby_archive_delay"} & set(options())


def test_noded_is_vouched_for_by_the_kernel_where_it_has_a_name_and_by_its_password_elsewhere() -> None:
    by_peer = conf.hba([], by_peer=True).decode().splitlines()
    assert "local all         endpointd peer map=endpointd" in by_peer
    assert by_peer.index("local endpointd,replication postgres peer map=endpointd") < by_peer.index(
        "local all         all scram-sha-256"
    )
    assert [line for line in conf.hba([], by_peer=False).decode().splitlines() if "peer" in line] == []


def test_our_map_is_written_beside_those_of_others() -> None:
    others = "theirs /^(.*)@corp$ \\1\nendpointd mallory endpointd\n"
    text = conf.ident(others, "nobody").decode().splitlines()
    assert text == ["theirs /^(.*)@corp$ \\1", 'endpointd "nobody" endpointd', 'endpointd "nobody" postgres']
    assert conf.ident(others, None).decode().splitlines() == text[:1]


def test_comments_in_users_lines_do_not_count() -> None:
    check_hba(["# trust nobody", "", "host all all all scram-sha-256 # not trust"])


def test_roles_get_what_they_need_and_passwords_are_quoted() -> None:
    passwords = {"postgres": "p", conf.CONTROL_ROLE: "c", conf.REPLICATION_ROLE: "it's", conf.PROBE_ROLE: "q"}
    statements = role_statements(passwords)
    assert statements[0].startswith("CREATE ROLE postgres LOGIN SUPERUSER ")
    assert all("\n" not in statement and statement.endswith(";") for statement in statements)
    assert not any("SUPERUSER" in statement for statement in statements[1:])
    assert "CREATE ROLE endpointd_replication LOGIN REPLICATION PASSWORD 'it''s';" in statements
    assert not any(conf.CONTROL_ROLE in statement.split() for statement in statements if "ROLE" in statement)


CONTROL = """\
pg_control version number:            1300
Database system identifier:           7711305365621355795
Database cluster state:               {state}
Latest checkpoint location:           0/50000A8
Latest checkpoint's TimeLineID:       5
max_connections setting:              170
max_worker_processes setting:         8
max_wal_senders setting:              20
max_prepared_xacts setting:           0
max_locks_per_xact setting:           64
WAL block size:                       8192
Bytes per WAL segment:                16777216
Mock authentication nonce:            64bebac1ee7b6a439042e582e58078f3f8da1699b86933ef1b5df0d59934076a
"""


@pytest.mark.parametrize(("state", "clean"), [("shut down", True), ("shut down in recovery", True), ("in production", False)])
def test_a_control_file_says_whose_data_it_is_and_how_it_was_left(state: str, clean: bool) -> None:
    control = parse_controldata(CONTROL.format(state=state))
    assert control.system_identifier == "7711305365621355795"
    assert control.checkpoint == 0x50000A8
    assert control.checkpoint_timeline == 5
    assert control.demands == {
        "max_connections": 170,
        "max_worker_processes": 8,
        "max_prepared_transactions": 0,
        "max_locks_per_transaction": 64,
    }
    assert control.geometry.segment_bytes == 16 << 20
    assert control.geometry.block_bytes == 8192
    assert control.was_shut_down is clean
    assert control.mock_nonce.hex() == "64bebac1ee7b6a439042e582e58078f3f8da1699b86933ef1b5df0d59934076a"
    assert control.mock_nonce.hex() not in repr(control)


def test_a_control_file_without_the_expected_lines_is_an_error() -> None:
    with pytest.raises(ValueError, match="system identifier"):
        parse_controldata("pg_control version number: 1300\n")
    warned = "pg_controldata: warning: calculated CRC checksum does not match value stored in control file\n"
    with pytest.raises(ValueError, match="checksum is wrong"):
        parse_controldata(warned + CONTROL.format(state="shut down"))


def test_a_control_file_may_pad_its_positions_with_zeros_as_from_postgresql_19_on() -> None:
    text = CONTROL.format(state="in production").replace("0/50000A8", "0/050000A8")
    text += "Minimum recovery ending location:     0/00000000\nData page checksum version:           3\n"
    control = parse_controldata(text)
    assert control.checkpoint == 0x50000A8
    assert control.consistent == 0


@pytest.mark.parametrize("record", ["0/402DD98", "0/0402DD98"])
def test_pg_waldump_tells_the_last_record_with_positions_padded_or_not(record: str) -> None:
    unread = (
        f"pg_waldump: error: error in WAL record at {record}: invalid record length at 0/402DE00: expected at least 24, got 0"
    )
    assert last_whole(unread) == 0x402DD98
    assert last_whole(f"pg_waldump: error: could not find a valid record after {record}") is None
    line = "rmgr: Heap        len (rec/tot):     59/    59, tx:        733, lsn: {}, prev {}, desc: INSERT off: 5\n"
    assert last_listed(line.format("0/0402DD00", "0/0402DCC8") + line.format(record, "0/0402DD00")) == 0x402DD98
    assert last_listed("") is None


HISTORY = "1\t0/3000000\tno recovery target specified\n\n4\t0/5021038\tno recovery target specified\n"


def test_a_history_tells_where_a_timeline_was_left() -> None:
    assert history.fork_point(HISTORY, Timeline(4)) == parse_lsn("0/5021038")
    assert history.fork_point(HISTORY, Timeline(3)) is None
    assert history.fork_point("4 nonsense", Timeline(4)) is None
    padded = "1\t0/03000000\tno recovery target specified\n4\t0/05021038\tno recovery target specified\n"
    assert history.parse_history(padded) == history.parse_history(HISTORY)
    assert history.fork_point(padded, Timeline(4)) == history.fork_point(HISTORY, Timeline(4))


def test_placeholders_are_planted_below_the_claimed_timeline_and_go_when_nothing_was_made_of_them(tmp_path: Path) -> None:
    (tmp_path / "00000002.history").write_text(HISTORY)
    history.plant_placeholders(tmp_path, Timeline(5))
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"0000000{n}.history" for n in (2, 3, 4)]
    assert (tmp_path / "00000002.history").read_text() == HISTORY
    # The promotion to 3 or above never came: those above the real file go.
    history.remove_placeholders(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["00000002.history"]


def test_placeholders_below_a_real_history_stay_for_followers(tmp_path: Path) -> None:
    history.plant_placeholders(tmp_path, Timeline(5))
    (tmp_path / "00000005.history").write_text(HISTORY)
    history.remove_placeholders(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"0000000{n}.history" for n in (2, 3, 4, 5)]


def test_the_newest_timeline_is_that_of_the_wal_segments(tmp_path: Path) -> None:
    assert segments.newest_timeline(tmp_path) == 1
    history.plant_placeholders(tmp_path, Timeline(9))
    (tmp_path / "archive_status").mkdir()
    for name in ("00000002000000000000000A", "000000030000000000000009.partial", "0000000300000000000000FF"):
        (tmp_path / name).touch()
    assert segments.newest_timeline(tmp_path) == 3


def test_a_file_that_is_no_history_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "note.history").write_text("x")
    history.remove_placeholders(tmp_path)
    assert subprocess.run(["ls", str(tmp_path)], capture_output=True, text=True, check=True).stdout == "note.history\n"


def test_only_a_receiver_that_streams_counts_as_one() -> None:
    """From PostgreSQL 19 on the view shows a receiver that is still connecting too; the process table shows it anyway (S2)."""
    sources = {path: path.read_text() for path in (Path(conf.__file__).parents[1]).rglob("*.py")}
    asked = [
        (path.name, " ".join(text[found.end() :].split()))
        for path, text in sources.items()
        for found in re.finditer(r"FROM pg_stat_(get_)?wal_receiver(\(\))?", text)
    ]
    assert len(asked) >= 4
    assert [path for path, following in asked if not following.startswith("WHERE status = 'streaming'")] == []


def test_replay_that_waits_for_a_reader_is_known_by_the_names_of_every_version() -> None:
    for name in ("'Lock'", "'BufferPin'", "'BufferCleanup'", "'RecoveryConflict%'"):
        assert name in REPLAY_IS_HELD_UP
    assert REPLAY_IS_HELD_UP in END_BLOCKERS
