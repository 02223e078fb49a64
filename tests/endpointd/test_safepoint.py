"""What a session is doing, by transcripts: `c` the client sends, `s` the server sends, then what is believed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from endpointd.relay.facts import Doing
from endpointd.relay.relaxed import Relaxed
from endpointd.relay.safepoint import SYNC_WAIT_ROUTINE, SafePoint
from pgwire.errors import ProtocolError
from pgwire.messages import Backend, encode_report, error_response, make_report, message, query, ready_for_query

IDLE, IN_TRANSACTION, BUSY = Doing.IDLE, Doing.IN_TRANSACTION, Doing.BUSY

Step = tuple[str, str] | Doing
"""A side and the messages it sends, or what is believed then. Z is followed by the status."""


def frames(side: str, text: str) -> bytes:
    data = b""
    kinds = iter(text)
    for kind in kinds:
        if side == "s" and kind == "Z":
            data += ready_for_query(next(kinds))
        elif side == "s" and kind == "E":
            data += error_response("ERROR", "22P02", "no")
        else:
            data += message(ord(kind), b"" if side == "c" and kind in "HS" else b"payload")
    return data


PLAYS: dict[str, list[Step]] = {
    "a query": [IDLE, ("c", "Q"), BUSY, ("s", "TDDC"), BUSY, ("s", "ZI"), IDLE],
    "a transaction": [("c", "Q"), ("s", "CZT"), IN_TRANSACTION, ("c", "Q"), BUSY, ("s", "CZI"), IDLE],
    "a failed transaction": [("c", "Q"), ("s", "EZE"), IN_TRANSACTION],
    "extended protocol": [("c", "PBDE"), BUSY, ("c", "S"), BUSY, ("s", "12TDC"), BUSY, ("s", "ZI"), IDLE],
    "work that is not synced yet": [("c", "PBDEH"), ("s", "12TDC"), BUSY, ("c", "S"), ("s", "ZI"), IDLE],
    "a flush of nothing": [("c", "H"), IDLE, ("c", "PBESH"), BUSY, ("s", "12CZI"), IDLE, ("c", "HH"), IDLE],
    "a flush behind a query": [("c", "QH"), BUSY, ("s", "CZI"), IDLE],
    "a flush of something": [("c", "HPH"), ("s", "1"), BUSY, ("c", "H"), BUSY, ("c", "S"), ("s", "ZI"), IDLE],
    "a pipeline": [("c", "PBES" * 3), ("s", "12CZI"), BUSY, ("s", "12CZI"), BUSY, ("s", "12CZI"), IDLE],
    "an error in a pipeline": [("c", "PBESPBES"), ("s", "EZI"), BUSY, ("s", "12CZI"), IDLE],
    "a function call": [("c", "F"), BUSY, ("s", "VZI"), IDLE],
    "notifications do not matter": [("s", "A"), IDLE, ("s", "SN"), IDLE],
    "copy out": [("c", "Q"), ("s", "Hddd"), BUSY, ("s", "cCZI"), IDLE],
    "copy in": [("c", "Q"), ("s", "G"), BUSY, ("c", "ddd"), BUSY, ("c", "c"), BUSY, ("s", "CZI"), IDLE],
    "copy in given up by the client": [("c", "Q"), ("s", "G"), ("c", "df"), ("s", "EZI"), IDLE],
    "copy in refused by the server": [("c", "Q"), ("s", "G"), ("c", "d"), ("s", "EZI"), ("c", "ddc"), IDLE],
    "copy in by the extended protocol, with the Sync that is swallowed": [
        ("c", "PBDES"), ("s", "12nG"), BUSY, ("c", "ddc"), BUSY, ("c", "S"), ("s", "C"), BUSY, ("s", "ZI"), IDLE,
    ],
    "copy in by the extended protocol, without an early Sync": [
        ("c", "PBEH"), ("s", "12G"), ("c", "dc"), BUSY, ("s", "C"), BUSY, ("c", "S"), BUSY, ("s", "ZI"), IDLE,
    ],
    "copy in by the extended protocol, refused by the server": [
        ("c", "PBDES"), ("s", "12nG"), ("c", "d"), ("s", "E"), BUSY, ("c", "dc"), BUSY, ("c", "S"),
        ("s", "ZI"), IDLE,
    ],
    "replication streams both ways": [
        ("c", "Q"), ("s", "Wdd"), BUSY, ("c", "d"), BUSY, ("c", "c"), ("s", "cCZI"), IDLE,
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", PLAYS)
@pytest.mark.parametrize("trickle", [False, True])
@pytest.mark.parametrize("watched", [False, True])
def test_plays(name: str, trickle: bool, watched: bool) -> None:
    point = SafePoint(Relaxed.WARNINGS if watched else None)
    if watched:
        point.cancel_begins()
        point.cancel_ended()
    for step in PLAYS[name]:
        if isinstance(step, Doing):
            assert point.doing is step
            continue
        side, text = step
        data = frames(side, text)
        feed = point.client_sent if side == "c" else point.server_sent
        for part in [data[i : i + 1] for i in range(len(data))] if trickle else [data]:
            feed(part)


@given(st.sampled_from(sorted(PLAYS)), st.data())
def test_the_middle_of_a_message_is_never_a_safe_point(name: str, data: st.DataObject) -> None:
    point = SafePoint()
    for step in PLAYS[name]:
        if isinstance(step, Doing):
            continue
        side, text = step
        sent = frames(side, text)
        cut = data.draw(st.integers(1, len(sent) - 1))
        feed = point.client_sent if side == "c" else point.server_sent
        feed(sent[:cut])
        pos = 0
        while pos < cut:
            pos += 1 + int.from_bytes(sent[pos + 1 : pos + 5], "big")
        if pos != cut:
            assert point.doing is BUSY
        feed(sent[cut:])


def test_the_servers_boundary_is_told() -> None:
    point = SafePoint()
    data = message(ord("D"), bytes(10))
    point.server_sent(data + data[:7])
    assert point.boundary == 15
    assert point.missing == 8
    point.server_sent(data[7:10])
    assert point.boundary == 0


def test_terminate_is_noticed() -> None:
    point = SafePoint()
    assert not point.client_terminated
    point.client_sent(message(ord("X")))
    assert point.client_terminated


def test_a_servers_own_goodbye_is_noticed_as_long_as_it_is_the_last_word() -> None:
    point = SafePoint()
    point.server_sent(error_response("ERROR", "22012", "division by zero"))
    assert not point.server_said_goodbye
    point.server_sent(error_response("FATAL", "57P01", "bye"))
    assert point.server_said_goodbye
    point.server_sent(ready_for_query("I"))
    assert not point.server_said_goodbye
    point.server_sent(message(Backend.ERROR_RESPONSE, b"torn"))
    assert not point.server_said_goodbye


def notice(routine: str, text: str = "canceling wait for synchronous replication due to user request") -> bytes:
    report = make_report("WARNING", "01000", text)
    return encode_report(Backend.NOTICE_RESPONSE, type(report)((*report.fields, ("R", routine))))


def test_a_commit_whose_wait_was_cancelled_is_noticed_by_the_routine() -> None:
    before, after = message(ord("D"), b"x"), message(ord("C"), b"INSERT 0 1\0") + ready_for_query("I")
    warning = notice(SYNC_WAIT_ROUTINE)
    assert SafePoint().server_sent(before + warning + after) == len(before + warning)
    assert SafePoint().server_sent(before + notice("exec_stmt_raise", SYNC_WAIT_ROUTINE) + after) is None
    assert SafePoint().server_sent(before + message(Backend.NOTICE_RESPONSE, b"torn " + SYNC_WAIT_ROUTINE.encode())) is None


CANCELED = error_response("ERROR", "57014", "canceling statement due to user request")
SUCCESS = message(ord("C"), b"INSERT 0 1\0")


def hiding() -> SafePoint:
    """Return a session that is idle, and hides warnings."""
    point = SafePoint(Relaxed.NONE)
    told: list[Relaxed | None] = []
    for _ in range(2):
        told.append(point.client_sent(query("set client_min_messages = error")))
        point.server_sent(message(ord("C"), b"SET\0") + ready_for_query("I"))
    assert told == [Relaxed.WARNINGS, None]
    return point


def test_a_success_after_a_cancel_request_is_in_doubt_in_a_session_that_hides_warnings() -> None:
    point = hiding()
    point.client_sent(query("insert"))
    point.cancel_begins()
    row = message(ord("D"), b"x")
    assert point.server_sent(row + SUCCESS + ready_for_query("I")) == len(row)
    # Cut in two: where the success begins is in the chunk before.
    point = hiding()
    point.client_sent(query("insert"))
    point.cancel_begins()
    point.cancel_ended()
    assert point.server_sent(row + SUCCESS[:3]) is None
    assert point.server_sent(SUCCESS[3:] + ready_for_query("I")) == -3


def test_by_the_extended_protocol_it_is_the_server_that_is_ready_again_that_is_in_doubt() -> None:
    point = hiding()
    point.client_sent(message(ord("E")) + message(ord("S")))
    assert point.server_sent(SUCCESS) is None
    point.cancel_begins()
    assert point.server_sent(ready_for_query("I")) == 0


def test_a_request_that_was_felt_leaves_no_doubt() -> None:
    point = hiding()
    point.client_sent(query("select pg_sleep(1)"))
    point.cancel_begins()
    assert point.server_sent(CANCELED + ready_for_query("I")) is None
    point.cancel_ended()
    point.client_sent(query("insert"))
    assert point.server_sent(SUCCESS + ready_for_query("I")) is None


def test_inside_a_transaction_only_its_commit_is_in_doubt() -> None:
    point = hiding()
    point.client_sent(query("begin"))
    point.server_sent(message(ord("C"), b"BEGIN\0") + ready_for_query("T"))
    point.client_sent(query("insert"))
    point.cancel_begins()
    assert point.server_sent(SUCCESS + ready_for_query("T")) is None
    point.client_sent(query("commit"))
    assert point.server_sent(message(ord("C"), b"COMMIT\0") + ready_for_query("I")) == 0


def test_a_request_that_reaches_an_idle_session_leaves_no_doubt() -> None:
    point = hiding()
    point.cancel_begins()
    assert point.is_in_doubt
    point.cancel_ended()
    assert not point.is_in_doubt


def test_a_session_that_hears_warnings_is_never_in_doubt() -> None:
    point = SafePoint(Relaxed.COMMITS)
    point.client_sent(query("insert"))
    point.cancel_begins()
    assert point.server_sent(SUCCESS + ready_for_query("I")) is None


@pytest.mark.parametrize("tail", ["cCZI", "EZI"])
def test_a_stream_of_replication_is_known_from_its_begin_to_its_end_and_commits_nothing(tail: str) -> None:
    point = SafePoint()
    point.client_sent(frames("c", "Q"))
    assert not point.is_streaming
    assert point.may_have_committed
    point.server_sent(frames("s", "Wd"))
    assert point.is_streaming
    assert not point.may_have_committed
    point.client_sent(frames("c", "d"))
    point.server_sent(frames("s", tail))
    assert not point.is_streaming
    assert point.doing is IDLE


def test_a_server_that_has_streamed_everything_has_said_goodbye() -> None:
    point = SafePoint()
    point.client_sent(frames("c", "Q"))
    point.server_sent(frames("s", "CZI"))
    assert not point.server_said_goodbye
    point.client_sent(frames("c", "Q"))
    point.server_sent(frames("s", "Wd"))
    assert not point.server_said_goodbye, "one that dies now has not sent everything"
    point.server_sent(frames("s", "C"))
    assert point.server_said_goodbye


def test_bytes_that_are_no_messages_are_refused() -> None:
    with pytest.raises(ProtocolError):
        SafePoint().client_sent(b"Q\0\0\0\0")
    with pytest.raises(ProtocolError):
        SafePoint().server_sent(b"D\xff\xff\xff\xff")
