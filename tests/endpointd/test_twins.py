"""The native engine's safe point believes what the one in Python believes, after every chunk of every stream."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from endpointd.relay.relaxed import Relaxed
from endpointd.relay.safepoint import SYNC_WAIT_ROUTINE
from pgwire.framing import COLLECTED_BYTES_MAX
from pgwire.messages import message
from tests.endpointd.twins import Twins, native

pytestmark = pytest.mark.skipif(native is None, reason="the native engine was not built")

_NAMES = st.sampled_from([b"", b"a", b"b", b"commit", b"x" * 70])
_TEXTS = st.sampled_from(
    [
        b"", b"select 1", b"COMMIT", b"commit_", b"xend", b"select '\xe9end\xe9'", b"prepare transaction 'a'", b"Rollback",
        b"abort;", b"END",
        b"set synchronous_commit = off", b"SET Synchronous_Commit TO on", b"set local CLIENT_MIN_MESSAGES to error",
        b"show client_min_messages", b"_client_min_message", b"select _, synchronous_commi, synchronous_commit",
        b"set client_min_messages = notice; set synchronous_commit = local", b"x" * (COLLECTED_BYTES_MAX - 3),
        b"x" * COLLECTED_BYTES_MAX, b" " * COLLECTED_BYTES_MAX + b"commit",
    ]
)  # fmt: skip
_PAYLOADS = st.one_of(
    st.binary(max_size=12),
    _TEXTS.map(lambda text: text + b"\0"),
    st.tuples(_NAMES, _TEXTS).map(lambda pair: pair[0] + b"\0" + pair[1] + b"\0\0\0"),
    st.tuples(_NAMES, _NAMES).map(lambda pair: pair[0] + b"\0" + pair[1] + b"\0\0\0"),
    st.sampled_from([b"I", b"T", b"E", b"", b"COMMIT\0", b"PREPARE TRANSACTION\0", b"INSERT 0 1\0"]),
    st.lists(
        st.tuples(
            st.sampled_from([b"S", b"V", b"C", b"M", b"R", b"\xff"]),
            st.sampled_from([b"FATAL", b"PANIC", b"ERROR", b"", b"57014", SYNC_WAIT_ROUTINE.encode(), b"x"]),
        ),
        max_size=5,
    ).map(lambda fields: b"".join(letter + text + b"\0" for letter, text in fields) + b"\0"),
)
_CLIENT = st.tuples(st.sampled_from(b"QQPPBESSFHDCdcfXp\xf0"), _PAYLOADS).map(lambda pair: message(*pair))
_SERVER = st.tuples(st.sampled_from(b"ZZZCENGWHTDdcSA12n\xf0"), _PAYLOADS).map(lambda pair: message(*pair))
_TORN = st.binary(min_size=1, max_size=8)
_STREAM = st.lists(
    st.one_of(
        st.tuples(st.just("client"), st.lists(_CLIENT, min_size=1, max_size=6).map(b"".join)),
        st.tuples(st.just("server"), st.lists(_SERVER, min_size=1, max_size=6).map(b"".join)),
        st.tuples(st.sampled_from(["begins", "ends"]), st.just(b"")),
        st.tuples(st.sampled_from(["client", "server"]), _TORN),
    ),
    max_size=14,
)
_WATCHES = st.sampled_from([None, Relaxed.NONE, Relaxed.COMMITS, Relaxed.WARNINGS, Relaxed.COMMITS | Relaxed.WARNINGS])


def play(watch: Relaxed | None, stream: Sequence[tuple[str, bytes]], cut: random.Random | None) -> None:
    """Feed both with *stream*, in pieces that *cut* draws."""
    twins = Twins(watch)
    cancels = 0
    for what, data in stream:
        if what == "begins":
            cancels += 1
            twins.cancel(begins=True)
        elif what == "ends":
            if cancels:
                cancels -= 1
                twins.cancel(begins=False)
        else:
            feed = twins.client_sent if what == "client" else twins.server_sent
            pos = 0
            while pos < len(data) and not twins.is_over:
                size = cut.choice((1, 2, 5, 6, 40, 60_000, 1 << 20)) if cut is not None else len(data)
                feed(data[pos : pos + size])
                pos += size
        if twins.is_over:
            return


@settings(max_examples=300, deadline=None)
@given(watch=_WATCHES, stream=_STREAM, seed=st.one_of(st.none(), st.integers(0, 1 << 16)))
def test_both_believe_the_same_after_every_chunk(
    watch: Relaxed | None, stream: list[tuple[str, bytes]], seed: int | None
) -> None:
    play(watch, stream, random.Random(seed) if seed is not None else None)


_PARTS = st.sampled_from(
    [b"commit", b"COMMIT", b"Abort", b"enD", b"prepare", b"Rollback", b"synchronous_commit", b"Client_Min_Messages", b"set ",
     b"show ",     b" = off", b"to error", b"'", b"_", b" ", b";", b"\n", b"\xe9", b"x", b"1", b"."]
)  # fmt: skip


@settings(max_examples=500, deadline=None)
@given(st.lists(_PARTS, max_size=5).map(b"".join), st.sampled_from([b"", b"a"]))
def test_both_read_the_same_in_a_statement(text: bytes, name: bytes) -> None:
    for begun in (message(ord("Q"), text + b"\0"), message(ord("P"), name + b"\0" + text + b"\0\0\0")):
        twins = Twins(Relaxed.NONE)
        twins.client_sent(message(ord("Q"), b"begin\0"))
        twins.server_sent(message(ord("Z"), b"T"))
        twins.client_sent(begun)  # only here does it matter whether the text may end the block


def test_both_give_up_following_a_client_with_many_endings() -> None:
    for count in (255, 256, 257, 300):
        twins = Twins(Relaxed.NONE)
        for number in range(count):
            twins.client_sent(message(ord("P"), b"s%d\0commit\0\0\0" % number))
        twins.client_sent(message(ord("S")))
        twins.server_sent(message(ord("Z"), b"T"))
        twins.client_sent(message(ord("B"), b"\0t0\0"))


def test_both_follow_a_long_pipeline() -> None:
    twins = Twins(None)
    sync, ready = message(ord("S")), message(ord("Z"), b"I")
    for size in (1, 11, 12, 13, 1000, 7):
        twins.client_sent(sync * size)
        twins.client_sent(message(ord("Q"), b"x\0") * size)
        for _ in range(2 * size):
            twins.server_sent(ready)


def test_a_statement_too_long_to_be_seen_whole_may_end_its_block_in_either_protocol() -> None:
    text = b" " * COLLECTED_BYTES_MAX + b"commit\0"
    for begun in (message(ord("Q"), text), message(ord("P"), b"\0" + text + b"\0\0")):
        twins = Twins(Relaxed.NONE)
        twins.client_sent(message(ord("Q"), b"begin\0"))
        twins.server_sent(message(ord("Z"), b"T"))
        assert not twins.may_have_committed
        twins.client_sent(begun)
        assert twins.may_have_committed
