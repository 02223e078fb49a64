"""Which server connections are kept, given out and let go, by numbers; and what a server's answers are taken for."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from endpointd.routing.table import Backend, make_table
from endpointd.servers.upkeep import (
    Answer,
    State,
    ask_with,
    can_be_asked_for,
    is_wanted_by_others,
    read_answer,
    state_of,
)
from endpointd.servers.warmpool import ServerSession, WarmKey, WarmPool, Wish, fingerprint
from endpointd.session.startupsettings import may_be_shared
from pgtopology.epoch import Epoch
from pgtopology.node import Address, NodeName, Role
from pgwire import messages as m
from pgwire.errors import ProtocolError
from pgwire.scram import make_verifier
from pgwire.startup import PROTOCOL_3_0, make_startup
from testkit.feedserver import document, member

WISH = Wish(b"packet", b"proof", "ann", "shop")
TABLE = make_table(document(member("n1", 1, role=Role.PRIMARY), member("n2", 2), writer="n1"))
assert TABLE.writer is not None
WRITER, READER = TABLE.writer, TABLE.readers[0]


@dataclass(frozen=True)
class Limits:
    enabled: bool = True
    idle_min: int = 1
    idle_max: int = 4
    idle_max_per_login: int = 3
    idle_timeout_s: float = 3.0
    lifetime_s: float = 100.0


LIMITS = Limits()


def session(
    wish: Wish = WISH, backend: Backend = WRITER, *, began_at: float = 0.0, epoch: Epoch = TABLE.epoch
) -> ServerSession:
    return ServerSession(WarmKey(wish, backend, epoch), (), m.BackendKey(1, b"four"), began_at, b"{}")


def pool(*sessions: ServerSession, now: float = 0.0, limits: Limits = LIMITS) -> WarmPool:
    made = WarmPool()
    for token, each in enumerate(sessions, 1):
        for gone in made.enter(token, each, now, limits):
            made.leave(gone)
        made.ready(token)
    return made


def other(**changes: object) -> Wish:
    return dataclasses.replace(WISH, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "key",
    [
        session(other(packet=b"another packet")).key,
        session(other(proof=b"of another verifier")).key,
        session(other(proof=b"")).key,
        session(backend=READER).key,
        session(backend=dataclasses.replace(WRITER, is_writer=False)).key,
        session(backend=dataclasses.replace(WRITER, address=Address("elsewhere", 1))).key,
        session(epoch=Epoch(TABLE.epoch + 1)).key,
    ],
)
def test_only_an_equal_one_is_given_out(key: WarmKey) -> None:
    made = pool(session())
    assert not made.has(key)
    assert made.take(key, 0.0, LIMITS) is None
    assert made.has(session().key)
    assert made.take(session().key, 0.0, LIMITS) == 1
    assert made.take(session().key, 0.0, LIMITS) is None, "it was given out"


def test_who_left_last_is_given_out_first_and_nobody_who_is_not_ready() -> None:
    made = pool(session(), session(), session())
    made.ready(3, is_ready=False)
    assert [made.take(session().key, 0.0, LIMITS) for _ in range(3)] == [2, 1, None]
    made.ready(3)
    assert made.take(session().key, LIMITS.lifetime_s, LIMITS) is None, "too old"
    assert made.take(session().key, LIMITS.lifetime_s - 1, LIMITS) == 3


def test_beyond_the_limits_who_came_first_has_to_go() -> None:
    made = pool(session(), session(), session())
    assert made.enter(4, session(), 0.0, LIMITS) == (1,)
    made.leave(1)
    assert made.enter(5, session(other(packet=b"p")), 0.0, LIMITS) == ()
    assert made.enter(6, session(other(packet=b"p")), 0.0, LIMITS) == (2,)
    made.leave(2)
    assert made.enter(7, session(backend=READER), 0.0, LIMITS) == (), "another server has room"


def test_what_is_not_needed_goes_soon_and_all_at_their_age() -> None:
    made = pool(session(), session(), session(began_at=-50.0), session(other(packet=b"p")))
    assert made.overdue(LIMITS.idle_timeout_s - 0.1, LIMITS) == {}
    assert made.overdue(LIMITS.idle_timeout_s, LIMITS) == {1: "idle", 2: "idle"}
    assert made.overdue(50.0, LIMITS) == {1: "idle", 2: "idle", 3: "age"}


def test_nothing_is_kept_of_an_old_login_at_a_full_server_or_when_it_is_switched_off() -> None:
    made = WarmPool()
    assert made.may_enter(session(), 0.0, LIMITS)
    assert not made.may_enter(session(), LIMITS.lifetime_s, LIMITS)
    assert not made.may_enter(session(), 0.0, Limits(enabled=False))
    assert not made.may_enter(session(), 0.0, Limits(idle_max=0))
    made.is_full("n1", 5.0)
    assert not made.may_enter(session(), 4.9, LIMITS)
    assert made.may_enter(session(backend=READER), 4.9, LIMITS)
    assert made.may_enter(session(), 5.0, LIMITS)


def test_what_the_table_does_not_stand_for_any_more_is_unfit() -> None:
    made = pool(session(), session(backend=READER))

    def unfit(*members: object, **changes: object) -> tuple[int, ...]:
        return made.unfit(make_table(document(*members, **{"writer": "n1", **changes})))  # type: ignore[arg-type]

    n1, n2 = member("n1", 1, role=Role.PRIMARY), member("n2", 2)
    assert unfit(n1, n2) == ()
    assert unfit(n1, n2, revision=9) == ()
    assert unfit(n1) == (2,)
    assert unfit(n1, member("n2", 3)) == (2,), "its address is another"
    assert unfit(n1, n2, epoch=9) == (1, 2)
    assert unfit(n1, n2, writer=None) == (1,)
    assert 2 in unfit(n1, member("n2", 2, role=Role.PRIMARY), writer="n2")


def test_one_of_each_server_and_database_looks_whether_others_want_it() -> None:
    made = pool(session(), session(other(packet=b"p")), session(other(database="store")), session(backend=READER))
    assert sorted(made.watchers(0.0)) == [1, 3, 4]
    assert not made.watchers(-1.0)
    made.ready(1, is_ready=False)
    assert sorted(made.watchers(0.0)) == [2, 3, 4]


def test_a_verifier_is_known_again_and_no_other_one() -> None:
    one, another = make_verifier("secret", b"salt", 1), make_verifier("secret", b"salt2", 1)
    assert fingerprint(one) == fingerprint(dataclasses.replace(one))
    assert len({fingerprint(one), fingerprint(another), fingerprint(dataclasses.replace(one, iterations=2))}) == 3


@pytest.mark.parametrize(
    ("parameters", "may"),
    [
        ({}, True),
        ({"application_name": "x", "options": "-c work_mem=1MB"}, True),
        ({"options": "-c role=other"}, False),
        ({"options": "--session-authorization=other"}, False),
        ({"Role": "other"}, False),
        ({"replication": "database"}, False),
        ({"replication": "false"}, False),
        ({"_pq_.report": "x"}, False),
    ],
)
def test_which_startup_packets_can_be_begun_again(parameters: dict[str, str], may: bool) -> None:
    assert may_be_shared(make_startup("ann", "shop", version=PROTOCOL_3_0, **parameters)) is may


# What a server answers

ROW = (b"t", b"t", b"616e6e", b"73686f70", b"{}")


def row(*fields: bytes | None) -> bytes:
    columns = b"".join((-1).to_bytes(4, signed=True) if each is None else len(each).to_bytes(4) + each for each in fields)
    return m.message(m.Backend.DATA_ROW, len(fields).to_bytes(2) + columns)


ANSWER = (
    m.message(m.Backend.COMMAND_COMPLETE, b"SET\0")
    + m.parameter_status("TimeZone", "UTC")
    + m.message(ord("T"), b"\0\0")
    + row(*ROW)
    + m.message(m.Backend.COMMAND_COMPLETE, b"SELECT 1\0")
    + m.ready_for_query("I")
)


@given(st.integers(0, len(ANSWER)))
def test_an_answer_is_whole_when_the_server_is_ready_again(size: int) -> None:
    assert read_answer(ANSWER[:size]) == (Answer((ROW,)) if size == len(ANSWER) else None)


@pytest.mark.parametrize(
    "said",
    [
        m.error_response("ERROR", "57014", "canceling statement due to user request") + m.ready_for_query("I"),
        m.ready_for_query("T"),
        m.ready_for_query("I") + b"N",
        m.message(m.Backend.COPY_IN_RESPONSE, b"\0\0\0"),
        m.message(m.Backend.DATA_ROW, b"\0\1\0\0\0\5abc"),
        b"D\0\0\0\1",
    ],
)
def test_what_is_no_answer_ends_it(said: bytes) -> None:
    with pytest.raises(ProtocolError):
        read_answer(said)


def judged(*fields: bytes | None, needs_valid: bool = True) -> State | None:
    return state_of(Answer((fields,)), user="ann", database="shop", needs_valid=needs_valid)


def test_a_session_is_fit_when_a_login_would_end_in_one_like_it() -> None:
    assert judged(*ROW) == State(b"{}", ())
    assert judged(b"t", b"t", *ROW[2:4], b"{work_mem=7MB}", b"UTC") == State(b"{work_mem=7MB}", (b"UTC",))
    assert judged(b"f", *ROW[1:]) is None
    assert judged(None, *ROW[1:]) is None
    assert judged(b"t", b"f", *ROW[2:]) is None
    assert judged(b"t", b"f", *ROW[2:], needs_valid=False) == State(b"{}", ())
    assert judged(b"t", b"t", b"626f62", *ROW[3:]) is None, "the role has another name now"
    assert judged(b"t", b"t", b"616e6e", b"00", b"{}") is None, "the database has another name now"
    assert judged(b"t", b"t", *ROW[2:4], b"{role=other}") is None
    assert judged(*ROW, None) is None, "a parameter is not there"
    assert judged(*ROW[:4], None) is None
    assert judged(*ROW[:4]) is None
    assert state_of(Answer(()), user="ann", database="shop", needs_valid=True) is None


def test_only_a_clear_no_says_that_nobody_wants_the_database() -> None:
    assert not is_wanted_by_others(Answer(((b"f",),)))
    assert is_wanted_by_others(Answer(((b"t",),)))
    assert is_wanted_by_others(Answer(()))


def test_only_names_can_be_asked_for() -> None:
    assert can_be_asked_for(("TimeZone", "my.name_2"))
    assert not can_be_asked_for(("TimeZone", "x'; drop table t; --"))
    assert b"current_setting('TimeZone')" in ask_with(("TimeZone",))
    assert NodeName("n1") == WRITER.node
