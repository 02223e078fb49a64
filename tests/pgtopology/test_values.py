"""LSNs, timelines and the codec: what is read is what was written, and nonsense is refused."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgtopology.codec import MessageError, decode, encode
from pgtopology.epoch import Epoch, Revision
from pgtopology.lsn import Lsn, format_lsn, parse_lsn
from pgtopology.node import Incarnation, NodeName, sync_name
from pgtopology.observation import Observation, Postmaster, PostmasterState
from pgtopology.orders import PromiseOrder
from pgtopology.timeline import UNKNOWN_CLAIMS_MAX, Timeline, TimelineRecord, epoch_of, fork_from, next_timeline


@given(st.integers(0, 2**64 - 1))
def test_an_lsn_survives_being_written(lsn: int) -> None:
    assert parse_lsn(format_lsn(Lsn(lsn))) == lsn


def test_an_lsn_is_written_as_postgresql_writes_it() -> None:
    assert format_lsn(Lsn(0x16_B3748)) == "0/16B3748"
    assert parse_lsn("16/B374D848") == 0x16_B374D848


@pytest.mark.parametrize(("padded", "bare"), [("0/0402DD98", "0/402DD98"), ("1/00000000", "1/0"), ("0/000000FF", "0/ff")])
def test_an_lsn_is_the_same_padded_with_zeros_or_not(padded: str, bare: str) -> None:
    """PostgreSQL pads from 19 on, so what is compared are numbers, never texts."""
    assert parse_lsn(padded) == parse_lsn(bare)


@pytest.mark.parametrize("text", ["", "0", "0/", "/0", "0/0/0", "0/G", "123456789/0", " 0/0", "0/0\n"])
def test_what_is_no_lsn_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="invalid LSN"):
        parse_lsn(text)


@pytest.mark.parametrize("lsn", [-1, 2**64])
def test_an_lsn_out_of_range_is_refused(lsn: int) -> None:
    with pytest.raises(ValueError, match="outside"):
        format_lsn(Lsn(lsn))


def test_a_slot_name_has_no_hyphen() -> None:
    assert sync_name(NodeName("db-1"), Incarnation("7f3a")) == "db_1_7f3a"


def record(timeline: int, parent: int, epoch: int, fork: int) -> TimelineRecord:
    return TimelineRecord(
        timeline=Timeline(timeline), parent=Timeline(parent), epoch=Epoch(epoch), node="n", fork_lsn=Lsn(fork)
    )


HISTORY = (record(2, 1, 1, 100), record(3, 2, 2, 200), record(4, 2, 3, 150), record(6, 4, 5, 300))


def test_the_fork_is_where_the_history_left_the_other_timeline() -> None:
    assert fork_from(HISTORY, Timeline(6), Timeline(4)) == 300
    assert fork_from(HISTORY, Timeline(6), Timeline(2)) == 150
    assert fork_from(HISTORY, Timeline(6), Timeline(1)) == 100


def test_a_timeline_beside_the_history_has_no_fork() -> None:
    assert fork_from(HISTORY, Timeline(6), Timeline(3)) is None
    assert fork_from(HISTORY, Timeline(6), Timeline(9)) is None


def test_a_claimed_timeline_is_greater_than_any_claimed_or_seen() -> None:
    epoch = Epoch(HISTORY[-1].epoch + 1)
    assert next_timeline((), (), Epoch(1)) == 3
    assert next_timeline(HISTORY, (), epoch) == 7
    assert next_timeline(HISTORY, (Timeline(11), Timeline(2)), epoch) == 13
    assert next_timeline(HISTORY, (Timeline(12),), epoch) == 13


def test_what_a_lost_history_may_have_claimed_in_an_epoch_is_not_claimed_in_the_next() -> None:
    """The store goes back to where the first epoch was recruiting: the one node that was told of its claim is away."""
    first = Epoch(HISTORY[-1].epoch + 1)
    numbers = [next_timeline(HISTORY, (), Epoch(first + attempts)) for attempts in range(10)]
    assert numbers == sorted({*numbers})
    assert next_timeline(HISTORY, (), Epoch(first + 1000)) - numbers[0] == 2 * UNKNOWN_CLAIMS_MAX


@given(st.lists(st.integers(0, 3), max_size=30))
def test_no_claim_is_a_number_that_a_hand_gives_to_a_server_on_a_claimed_timeline(seen: list[int]) -> None:
    """Between two claims some servers may be promoted by hand, and be heard of or not."""
    claims: list[Timeline] = []
    for heard in seen:
        records = tuple(
            TimelineRecord(timeline=claim, epoch=Epoch(claim), node="n1", parent=Timeline(1), fork_lsn=Lsn(1))
            for claim in claims
        )
        epoch = Epoch(max(claims, default=0) + 1)
        claims.append(next_timeline(records, [Timeline(max(claims, default=1) + heard)], epoch))
    by_hand = {Timeline(counted + 1) for counted in (Timeline(1), *claims)}
    assert not by_hand & {*claims}
    assert claims == sorted({*claims})


def test_a_timeline_belongs_to_the_epoch_that_claimed_it() -> None:
    assert epoch_of(HISTORY, Timeline(4)) == 3
    assert epoch_of(HISTORY, Timeline(1)) == 0
    assert epoch_of(HISTORY, Timeline(5)) is None


OBSERVATION = Observation(
    node=NodeName("n1"), noded_pid=1, sequence=2, postmaster=Postmaster(state=PostmasterState.STOPPED), data_dir="/d"
)


def test_unknown_fields_are_ignored() -> None:
    told = json.loads(encode(OBSERVATION))
    told["of_a_later_version"] = {"x": 1}
    told["postmaster"]["also_new"] = True
    assert decode(json.dumps(told), Observation) == OBSERVATION


def test_a_newer_format_is_refused() -> None:
    told = json.loads(encode(OBSERVATION)) | {"format_version": 2}
    with pytest.raises(MessageError, match="format_version 2 is newer than 1"):
        decode(json.dumps(told), Observation)


@pytest.mark.parametrize("data", ["", "[]", "{", '{"node": 5}', '{"format_version": "x"}'])
def test_what_is_no_observation_is_refused_with_the_place(data: str) -> None:
    with pytest.raises(MessageError, match="not a Observation"):
        decode(data, Observation)


@pytest.mark.parametrize("field", ["epoch", "revision", "deadline_ms"])
@pytest.mark.parametrize("number", [-1, 2**63, 10**30, 10**4000])
def test_an_order_whose_numbers_could_not_be_kept_is_refused_with_the_place(field: str, number: int) -> None:
    order = PromiseOrder(
        cluster="local", node=NodeName("n1"), system_identifier=None, epoch=Epoch(7), revision=Revision(1), voters=None
    )
    assert decode(encode(order), PromiseOrder) == order
    sent = encode(order).replace(
        f'"{field}":{json.loads(encode(order))[field]}'.encode(), f'"{field}":'.encode() + str(number).encode()
    )
    assert sent != encode(order)
    with pytest.raises(MessageError, match=rf"`?\$\.{field}`?|out of range"):
        decode(sent, PromiseOrder)
