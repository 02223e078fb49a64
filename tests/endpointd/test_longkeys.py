"""The cancel keys that we make: whoever shares the cluster's secret knows whose they are, and nobody else can make one."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from endpointd.session.elsewhere import STRANGERS_PER_S, Allowance
from endpointd.session.longkeys import KEY_BYTES, PROCESS_ID_BYTES, SECRET_BYTES, KeyMint, Origin, is_long
from pgtopology.cancels import PROXY_ID_BYTES, proxy_id
from pgwire.messages import KEY_BYTES_MAX, KEY_BYTES_MIN, BackendKey

PIDS = st.integers(-(2**31), 2**31 - 1)
DRAWN = st.binary(min_size=SECRET_BYTES, max_size=SECRET_BYTES)
ORIGINS = st.builds(
    Origin,
    st.binary(min_size=PROXY_ID_BYTES, max_size=PROXY_ID_BYTES),
    st.binary(min_size=PROCESS_ID_BYTES, max_size=PROCESS_ID_BYTES),
)
MINE = KeyMint.of_cluster("the feed's token", Origin(proxy_id("proxy-1"), b"process1"))
OTHER = KeyMint.of_cluster("the feed's token", Origin(proxy_id("proxy-2"), b"process2"))
ANOTHER_CLUSTERS = KeyMint.of_cluster("another token", MINE.origin)


@given(ORIGINS, PIDS, DRAWN)
def test_every_proxy_of_the_cluster_knows_who_made_a_key(origin: Origin, pid: int, drawn: bytes) -> None:
    key = KeyMint.of_cluster("the feed's token", origin).issue(pid, drawn)
    assert key.pid == pid
    assert is_long(key)
    assert len(key.secret) == KEY_BYTES <= KEY_BYTES_MAX
    assert MINE.origin_of(key) == OTHER.origin_of(key) == origin


@given(PIDS, DRAWN)
def test_no_other_cluster_can_make_one(pid: int, drawn: bytes) -> None:
    assert MINE.origin_of(ANOTHER_CLUSTERS.issue(pid, drawn)) is None


@given(PIDS, DRAWN, st.integers(0, KEY_BYTES * 8 - 1))
def test_a_key_with_one_bit_changed_is_forged(pid: int, drawn: bytes, bit: int) -> None:
    secret = bytearray(MINE.issue(pid, drawn).secret)
    secret[bit // 8] ^= 1 << bit % 8
    assert MINE.origin_of(BackendKey(pid, bytes(secret))) is None


@given(PIDS, PIDS, DRAWN)
def test_a_key_counts_for_its_own_server_process_alone(pid: int, other: int, drawn: bytes) -> None:
    found = MINE.origin_of(BackendKey(other, MINE.issue(pid, drawn).secret))
    assert (found is not None) is (pid == other)


@given(PIDS, st.binary(min_size=KEY_BYTES_MIN, max_size=KEY_BYTES_MAX))
def test_no_other_bytes_are_a_key_of_ours(pid: int, secret: bytes) -> None:
    assert MINE.origin_of(BackendKey(pid, secret)) is None


@given(PIDS, st.sampled_from([4, 32]), st.data())
def test_what_postgresql_makes_has_another_form(pid: int, size: int, data: st.DataObject) -> None:
    assert not is_long(BackendKey(pid, data.draw(st.binary(min_size=size, max_size=size))))


def test_the_secret_part_is_not_shown() -> None:
    key = MINE.issue(7, b"s" * SECRET_BYTES)
    assert "ssss" not in repr(key)
    assert "secret" not in repr(MINE)


@given(st.lists(st.floats(0, 5), max_size=200))
def test_an_allowance_is_never_exceeded(pauses: list[float]) -> None:
    allowance, now, granted = Allowance(STRANGERS_PER_S), 100.0, 0
    for pause in pauses:
        now += pause
        granted += allowance.take(now)
    assert granted <= STRANGERS_PER_S + (now - 100.0) * STRANGERS_PER_S


def test_an_allowance_lets_in_what_it_has_at_once_and_more_with_time() -> None:
    allowance = Allowance(2.0)
    assert [allowance.take(5.0) for _ in range(3)] == [True, True, False]
    assert [allowance.take(5.5), allowance.take(5.5)] == [True, False]
